# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel on every virtio device at once, moving between processes of one host.

Back ends of both vhost types, the kernel's and another process's, work for one guest.
"""
from __future__ import annotations

import re
from typing import Callable, Iterator

import pytest

from harness import injector
from harness.machine import Machine
from harness.move import start
from harness.serial import Serial
from nested import resident
from nested.fleets import Fleets
from nested.lab import BACK_END, Lab
from nested.machine import RemoteProcess
from nested.resident import Peer, Resident

DISK, USER_DISK, SIZE_MIB = "/tmp/disk.image", "/tmp/user-disk.image", 24
MOUNTS = {"/mnt": "/dev/vda", "/srv": "/dev/vdb"}
TAPS, PAIRS = ("tap0", "tap1"), (2, 1)
KERNEL_DEVICES = sum(PAIRS)  # /dev/vhost-net is opened for each pair of queues
MOVES = 2  # one with each way to scan
# Arcs at which the link closes, and who may have the guest then.
BROKEN = [("source", "device-sent", "source"), ("source", "sent-ready", "source"),
          ("destination", "loading-loaded", "either"),
          ("destination", "loaded-taking-over", "destination")]
WORDS = "all that goes in comes out"


def each_scans(number: int) -> bool:
    """Every other process has each device scan everything."""
    return number % 2 == 0


def devices(lab: Lab, host: str, count: int) -> list[str]:
    """A vhost-user back end serves one machine: each process has its own."""
    here = lab.host(host)
    back_end = f"/tmp/back-end{count}"
    RemoteProcess(here, [BACK_END, back_end, USER_DISK, "queues=1"], f"{back_end}.out")
    here.sh(f"until grep -q ready {back_end}.out; do usleep 10000; done")
    first, second = TAPS
    return ["--disk", f"path={DISK},queues=2", "--disk", f"vhost-user={back_end}",
            "--net", f"tap={first},vhost=on,queues={PAIRS[0]},mac={resident.MAC}",
            "--net", f"tap={second},vhost=on", "--rng", "on",
            "--console", f"unix:/tmp/console{count}",
            *(["--x-vhost-scan", "each"] if each_scans(count) else [])]


@pytest.fixture(scope="module")
def residents(lab: Lab) -> Iterator[Resident]:
    fleets = Fleets(lab)
    yield Resident(fleets, lambda host, count: devices(lab, host, count))
    fleets.end()


@pytest.fixture
def guest(lab: Lab, residents: Resident) -> Iterator[Resident]:
    """On host a, at rest."""
    if not residents.is_here:
        resident.taps(lab.host(), *TAPS)
        for path in (DISK, USER_DISK):
            resident.image(lab.host(), path, SIZE_MIB)
    yield residents.ready()
    print(residents.epitaph())


def interrupts(guest: Resident) -> dict[str, int]:
    """By the driver's name of the vector."""
    table = guest.terminal.run("grep PCI-MSI /proc/interrupts | tr '\\n' ';'")
    found = {}
    for line in filter(None, map(str.strip, table.split(";"))):
        words = line.split()
        found[words[-1].replace(",", ".")] = sum(map(int, words[1:1 + resident.CPUS]))
    return found


def assert_rng_and_console_work(lab: Lab, guest: Resident) -> None:
    assert guest.terminal.run("head -c 64 /dev/hwrng | wc -c") == "64"
    console = Serial(f"/tmp/console{guest.number}", connect=lab.host().connect)
    guest.terminal.run("{ echo awake; read line; echo \"had $line\"; } "
                       "< /dev/hvc0 > /dev/hvc0 2> /dev/null & true")
    console.wait(lambda: b"awake" in console.other, "whoever answers")
    console.send(f"{WORDS}\n".encode())
    console.wait(lambda: f"had {WORDS}".encode() in console.other, "the answer")
    console.close()


def test_linux_uses_all_virtio_devices(lab: Lab, guest: Resident) -> None:
    terminal = guest.terminal
    assert lab.host().run(["ping", "-c", "3", "-w", "20", resident.ADDRESS]).code == 0
    terminal.run("ping -c 3 -w 20 10.7.0.1")
    for disk in MOUNTS.values():
        terminal.run(f"dd if={disk} of=/dev/null bs=64k count=16")
    assert "virtio" in terminal.run("cat /sys/class/misc/hw_random/rng_current")
    assert_rng_and_console_work(lab, guest)
    counts = interrupts(guest)
    print(counts)
    wanted = ["virtio0-req.0", "virtio0-req.1", "virtio1-req.0", "virtio2-input.0",
              "virtio2-input.1", "virtio2-output.0", "virtio2-output.1", "virtio3-input.0"]
    assert not set(wanted) - counts.keys()
    for name in ("virtio0-req", "virtio1-req", "virtio2-input"):
        assert sum(count for key, count in counts.items() if key.startswith(name)) > 0


def set_master(guest: Resident, index: int, is_on: bool) -> None:
    """In the command register of a virtio device; its driver does not know."""
    config = f"/sys/bus/virtio/devices/virtio{index}/../config"
    value = r"\006" if is_on else r"\002"
    guest.terminal.run(f"printf '{value}' | dd of=$(readlink -f {config}) bs=1 seek=4 conv=notrunc "
                       "2> /dev/null")


def test_linux_devices_rest_while_bus_mastering_is_off(lab: Lab, guest: Resident) -> None:
    """Requests wait for as long, and frames: on a file, of a vhost-user back end, of vhost-net."""
    terminal, ping = guest.terminal, ["ping", "-c", "1", "-w", "2", resident.ADDRESS]
    for index, disk in enumerate(MOUNTS.values()):
        set_master(guest, index, False)
        terminal.run("rm -f /tmp/read; echo 3 > /proc/sys/vm/drop_caches; "
                     f"{{ dd if={disk} of=/dev/null bs=64k count=16; touch /tmp/read; }} "
                     "> /dev/null 2>&1 & true")
        assert terminal.run("sleep 1; ls /tmp/read 2> /dev/null || true") == ""
        set_master(guest, index, True)
        terminal.run("until test -e /tmp/read; do usleep 10000; done")
    assert lab.host().run(ping).code == 0
    set_master(guest, len(MOUNTS), False)
    assert lab.host().run(ping).code != 0
    set_master(guest, len(MOUNTS), True)
    assert lab.host().run(["ping", "-c", "3", "-w", "20", resident.ADDRESS]).code == 0


def test_stream_and_file_systems_survive_moves_between_processes(
        lab: Lab, guest: Resident, record_property: Callable[[str, str], None]) -> None:
    for folder, disk in MOUNTS.items():
        guest.write_files(folder, disk)
    peer = Peer(lab.host(), guest)
    pauses = []
    for _ in range(MOVES):
        number = guest.number
        moved, counts = guest.move()
        pauses.append(moved.info["downtime"])
        print(f"pause {moved.info['downtime']} ms, files {guest.files_written(*MOUNTS)}, {counts}")
        assert counts["kernel-scans"] > 0 and counts["user-scans"] > 0
        assert_scans(counts, "kernel", KERNEL_DEVICES, each_scans(number))
        assert_scans(counts, "user", 1, each_scans(number))
        # Both types are asked in the same rounds.
        assert counts["user-ring-scans"] * KERNEL_DEVICES == counts["kernel-ring-scans"]
    said = peer.end()
    record_property("figure", f"{MOVES} moves, {resident.gaps(said, pauses)}")
    resident.check_peer(said, pauses)
    assert_rng_and_console_work(lab, guest)
    for folder in MOUNTS:
        assert guest.check_files(folder) > 0
    for path in (DISK, USER_DISK):
        resident.check_image(lab.host(), path)


def assert_scans(counts: dict[str, int], kind: str, devices: int, is_each: bool) -> None:
    """Each device scans its rings once a round; everything is scanned by one of them, or by each."""
    rounds = counts[f"{kind}-ring-scans"] / devices
    assert counts[f"{kind}-scans"] == rounds * (devices if is_each else 1)


def has_lock(lab: Lab, machine: Machine) -> bool:
    """Whether it has the image's; a lock belongs to an open file."""
    inode = lab.host().sh(f"stat -c %i {DISK}").strip()
    locks = lab.host().sh(f"grep -h OFDLCK /proc/{machine.process.pid}/fdinfo/* || true")
    return re.search(rf" WRITE .*:{inode} ", locks) is not None


def test_disk_lock_is_with_the_side_that_runs_when_moves_fail(lab: Lab, guest: Resident) -> None:
    guest.write_files("/mnt", MOUNTS["/mnt"])
    for side, arc, owner in BROKEN:
        source = guest.machine
        destination, uri = guest.destination()
        broken = source if side == "source" else destination
        injector.arm(broken, arc, "close")
        start(source, uri)
        injector.wait_broken(broken, arc, "close")
        end = injector.settled(source, destination)
        assert end in (injector.SOURCE, injector.MOVED, injector.HANDED)
        is_there = end != injector.SOURCE
        assert owner in ("either", "destination" if is_there else "source")
        other = source if is_there else destination
        assert has_lock(lab, destination if is_there else source)
        assert not other.is_alive or not has_lock(lab, other)
        other.kill()
        if is_there:
            guest.goes_on_in(destination, guest.host)
        guest.wait_for_files("/mnt", 2)
        assert guest.terminal.run("ping -c 1 -w 20 10.7.0.1 | grep -c ttl=") == "1"
    assert guest.check_files("/mnt") > 0
    resident.check_image(lab.host(), DISK)
