# SPDX-License-Identifier: Apache-2.0
"""`make demo` on a machine without /dev/kvm."""
from __future__ import annotations

import subprocess

import pytest

from harness.machine import binary
from nested.image import ROOT
from nested.verdict import must_be_right
from nested.watch import EmulatorFault

DEMO_S = 140
ALONE = ["unshare", "--map-root-user", "--mount"]  # no root needed
# A /dev of our own, which has all that a program may look for but kvm.
HIDE = """
mount -t tmpfs tmpfs /mnt
for name in null zero full random urandom tty; do
    touch /mnt/$name && mount --bind /dev/$name /mnt/$name
done
mkdir /mnt/shm
mount --rbind /mnt /dev
exec "$@"
"""


def test_demo_runs_in_the_lab_where_there_is_no_kvm() -> None:
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces, in which /dev can be hidden, may not be made here")
    demo = [str(ROOT / "tools" / "demo"), "--godwit", binary(), "--moves", "1", "--memory", "256M",
            "--hot", "16M"]
    try:
        done = subprocess.run([*ALONE, "sh", "-e", "-c", HIDE, "sh", *demo], capture_output=True,
                              text=True, timeout=DEMO_S, check=False)
    except subprocess.TimeoutExpired as error:
        said = b"".join(filter(None, (error.stdout, error.stderr))).decode(errors="replace")
        pytest.fail(f"no end after {DEMO_S} s, and it had said: {said!r}")
    print(done.stdout, done.stderr)
    if EmulatorFault.__name__ in done.stderr:
        raise EmulatorFault(done.stderr)
    must_be_right("LOST" not in done.stdout, done.stdout)
    assert done.returncode == 0
    assert "this machine has no /dev/kvm" in done.stdout
    assert "moved 1 times" in done.stdout and "lost none" in done.stdout
