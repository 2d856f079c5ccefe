# SPDX-License-Identifier: Apache-2.0
"""The lab's packages: fetched once, never half."""
from __future__ import annotations

import platform
from pathlib import Path

import pytest

from nested import emulator, packages
from nested.packages import LabError

TOOL = """#!/bin/sh
echo "$0 $*" >> {log}
{action}
"""


class World:
    """An empty cache, and nothing but the given tools on the path."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tools, self.log = folder / "tools", folder / "log"
        self.tools.mkdir()
        self.log.touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        monkeypatch.setenv("PATH", f"{self.tools}:/bin")
        self.whole = packages.cache() / packages.LAYOUT

    def tool(self, name: str, action: str) -> None:
        path = self.tools / name
        path.write_text(TOOL.format(log=self.log, action=action))
        path.chmod(0o755)

    @property
    def calls(self) -> int:
        return len(self.log.read_text().splitlines())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path, monkeypatch)
    made.tool("apt-cache", "echo '  Depends: linux-image-9-cloud-amd64'")
    return made


def test_cached_set_is_used_without_asking_anyone(world: World) -> None:
    (world.whole / "boot").mkdir(parents=True)
    (world.whole / "boot" / "vmlinuz-9").touch()
    world.tool("apt-get", "exit 1")
    assert packages.obtain().bzimage == world.whole / "boot" / "vmlinuz-9"
    assert world.calls == 0


def test_download_that_breaks_off_leaves_nothing_behind(world: World) -> None:
    world.tool("apt-get", "echo half > linux-image-9.deb; echo 'no route to host' >&2; exit 100")
    for number in range(2):  # and the next one starts afresh
        calls = world.calls
        with pytest.raises(LabError, match="no route to host") as told:
            packages.obtain()
        assert packages.META in str(told.value) and str(packages.cache()) in str(told.value)
        assert world.calls > calls
        assert [path.name for path in packages.cache().iterdir()] == ["lock"]


def test_package_that_does_not_unpack_leaves_nothing_behind(world: World) -> None:
    world.tool("apt-get", "echo half > linux-image-9.deb")
    world.tool("dpkg-deb", "mkdir -p $3/boot; echo 'unexpected end of file' >&2; exit 2")
    with pytest.raises(LabError, match="unexpected end of file"):
        packages.obtain()
    assert not world.whole.exists()


def test_lists_of_its_own_are_fetched_where_the_systems_are_empty(world: World) -> None:
    world.tool("apt-get", 'case "$*" in *Dir::State::lists=*) echo > $$.deb ;; *) exit 100 ;; esac')
    world.tool("dpkg-deb", "exit 2")
    with pytest.raises(LabError):
        packages.obtain()
    told = world.log.read_text()
    assert "update" in told and told.index("update") < told.index("dpkg-deb")


def qemu(major: int) -> str:
    return f"echo QEMU emulator version {major}.2.1"


@pytest.fixture
def anew() -> None:
    """What is told once is asked again."""
    emulator.obtain.cache_clear()
    yield
    emulator.obtain.cache_clear()


def test_new_enough_emulator_of_the_system_is_used(world: World, anew: None) -> None:
    world.tool(emulator.QEMU, qemu(emulator.WANTED))
    world.tool("apt-get", "exit 1")
    assert emulator.obtain() == (emulator.QEMU,)
    assert "apt-get" not in world.log.read_text()


def test_old_emulator_is_replaced_by_a_backport(world: World, anew: None) -> None:
    world.tool(emulator.QEMU, qemu(emulator.WANTED - 1))
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    world.tool("apt-get", f"""case "$*" in
        *indextargets*) echo Packages {release} main http://packages.invalid/ ;;
        *download*) grep -r . sources.list >> {world.log}; echo > qemu.deb ;;
        esac""")
    world.tool("dpkg-deb", f"""mkdir -p $3/usr/bin
        printf '#!/bin/sh\n{qemu(emulator.WANTED)}\n' > $3/usr/bin/{emulator.QEMU}
        chmod +x $3/usr/bin/{emulator.QEMU}""")
    assert emulator.obtain()[0] == str(packages.cache() / "qemu" / "usr" / "bin" / emulator.QEMU)
    assert f"{release}-backports" in world.log.read_text()


def test_old_emulator_is_used_where_there_is_no_other_and_it_is_said(world: World, anew: None
                                                                     ) -> None:
    world.tool(emulator.QEMU, qemu(emulator.WANTED - 1))
    world.tool("apt-get", "echo 'no route to host' >&2; exit 100")
    with pytest.warns(UserWarning, match="no route to host"):
        assert emulator.obtain() == (emulator.QEMU,)
