# SPDX-License-Identifier: Apache-2.0
"""What makes no sense gets one clear line, an exit code, and leaves nothing behind."""
from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.machine import Fleet, binary, run
from harness.move import wait
from harness.scene import SAVED_ARGV
from harness.tiny import Tiny

NOBODY = 65534


def refused(*argv: str, **options) -> str:
    """Run, demand a failure told in one line, and return that line."""
    told = run(*argv, **options)
    assert told.returncode > 0, (told.returncode, told.stdout, told.stderr)
    lines = [line for line in told.stderr.splitlines() if line.strip()]
    # A GNU tool adds "Try 'godwit --help'" to a wrong command line.
    said = [line for line in lines if not line.startswith("Try ")]
    assert len(said) == 1, told.stderr
    assert said[0].startswith("godwit")
    return said[0]


def machine_refused(folder: Path, *argv: str, **options) -> str:
    line = refused("run", "--serial", f"unix:{folder}/s", "--qmp", f"unix:{folder}/q", *argv,
                   **options)
    left = [path.name for path in folder.iterdir() if path.name in ("s", "q")]
    assert left == []
    return line


def test_missing_kernel_is_named(kvm: None, folder: Path) -> None:
    assert "/no/such/kernel" in machine_refused(folder, "--kernel", "/no/such/kernel")


def test_missing_initrd_is_named(kvm: None, folder: Path, tiny: Tiny) -> None:
    line = machine_refused(folder, "--kernel", str(tiny.build("ticks")), "--initrd", "/no/initrd")
    assert "/no/initrd" in line


def test_initrd_larger_than_memory_is_refused(kvm: None, folder: Path, tiny: Tiny) -> None:
    initrd = folder / "initrd"
    with initrd.open("wb") as file:
        file.truncate(1 << 30)
    machine_refused(folder, "--memory", "64M", "--kernel", str(tiny.build("ticks")),
                    "--initrd", str(initrd))


@pytest.mark.parametrize("content", [b"", b"x", b"#!/bin/sh\necho hello\n" * 100, b"\0" * 8192,
                                     b"\x7fELF", b"MZ" + b"\0" * 4096],
                         ids=["empty", "byte", "script", "zeroes", "magic", "dos"])
def test_file_that_is_no_kernel_is_refused(kvm: None, folder: Path, content: bytes) -> None:
    path = folder / "kernel"
    path.write_bytes(content)
    assert str(path) in machine_refused(folder, "--kernel", str(path))


def test_directory_as_kernel_is_refused(kvm: None, folder: Path) -> None:
    machine_refused(folder, "--kernel", str(folder))


def test_bzimage_that_is_cut_off_is_refused(kvm: None, folder: Path, tiny: Tiny) -> None:
    path = tiny.bzimage()
    path.write_bytes(path.read_bytes()[:0x500])
    assert "cut off" in machine_refused(folder, "--kernel", str(path))


def test_elf_for_users_is_no_kernel(kvm: None, folder: Path) -> None:
    assert "PVH" in machine_refused(folder, "--kernel", binary())


def test_elf_cut_off_anywhere_is_refused_or_whole_enough(kvm: None, folder: Path, tiny: Tiny
                                                         ) -> None:
    whole = tiny.build("debug_exit", value=7).read_bytes()
    path = folder / "kernel"
    for size in sorted({0, 4, 16, 51, 52, 53, 84, 116, 179, 180, 200, 260, 264, 280, 283}):
        path.write_bytes(whole[:size])
        machine_refused(folder, "--kernel", str(path), "--cpus", "1")


def test_elf_with_random_bytes_changed_never_crashes_godwit(kvm: None, folder: Path, tiny: Tiny
                                                            ) -> None:
    whole = tiny.build("debug_exit", value=7).read_bytes()
    path = folder / "kernel"
    source = random.Random(1)
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(source.randint(1, 6)):
            damaged[source.randrange(0, 0xb4)] = source.choice((0, 1, 0x7f, 0x80, 0xff))
        path.write_bytes(damaged)
        process = subprocess.Popen([binary(), "run", "--memory", "32M", "--cpus", "1", "--kernel",
                                    str(path), "--serial", "null"], stderr=subprocess.PIPE,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            code = process.wait(3)
        except subprocess.TimeoutExpired:  # it runs something: that is allowed
            process.terminate()
            code = process.wait(10)
        process.stderr.close()
        assert code >= 0, damaged[:0xb4].hex()


@pytest.mark.parametrize("argv", [
    ["--memory", "0"], ["--memory", "1"], ["--memory", "-1"], ["--memory", "1M"],
    ["--memory", "999999999T"], ["--memory", "99999999999999999999999"], ["--memory", "1.5G"],
    ["--memory", "lots"], ["--memory", ""], ["--memory", "256M "], ["--memory", "17T"],
    ["--cpus", "0"], ["--cpus", "100000"], ["--cpus", "-1"], ["--cpus", "two"], ["--cpus", ""],
    ["--cpus", "1x"], ["--serial", "nonsense"], ["--serial", "unix:"],
    ["--serial", "file:/no/such/folder/file"], ["--qmp", "tcp:1"], ["--qmp", "unix:"],
    ["--qmp", "unix:" + "x" * 200], ["--accel", "tcg"], ["--accel", "kvm,dirty=magic"],
    ["--accel", "kvm,ring-entries=3"], ["--accel", "kvm,ring-entries=4096"],
    ["--accel", "kvm,dirty=ring,ring-entries=0"], ["--accel", "kvm,dirty=ring,ring-entries=3000"],
    ["--accel", "kvm,dirty=ring,ring-entries=64"], ["--accel", "kvm,dirty=ring,ring-entries=1048576"],
    ["--accel", "kvm,dirty=ring,ring-entries=many"], ["--accel", "kvm,dirty=ring,x-plain-log"],
    ["--accel", "kvm,dirty=ring-or-bitmap,ring-entries=64"], ["--accel", "kvm,no=such"], ["--no-such-option"],
    ["surplus"], ["--incoming", "nonsense"], ["--incoming", "unix:"], ["--incoming", "tcp:x"],
    ["--incoming", "file:/no/such/file"], ["--incoming", "fd:9999"], ["--name", "x" * 1000],
    ["--memory"],
], ids=" ".join)
def test_option_that_makes_no_sense_is_refused(accel: None, folder: Path, argv: list[str]) -> None:
    line = machine_refused(folder, "--guest", "stress,hot=1M", *argv)
    assert len(line) < 600
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("guest", ["", "nosuch", "stress,hot", "stress,hot=", "stress,hot=x",
                                   "stress,hot=99T", "stress,rate=fast", "stress,pattern=zigzag",
                                   "stress,colour=red", "stress,tick=1parsec", "stress," + "x" * 9999])
def test_guest_option_that_makes_no_sense_ends_godwit_with_a_reason(accel: None, guest: str) -> None:
    told = run("run", "--memory", "64M", "--cpus", "1", "--guest", guest, "--serial", "stdio")
    assert told.returncode > 0
    assert (told.stderr + told.stdout).strip()


def test_machine_with_nothing_to_run_is_refused(accel: None, folder: Path) -> None:
    machine_refused(folder, "--memory", "64M")


def test_kernel_and_built_in_guest_together_are_refused(kvm: None, folder: Path, tiny: Tiny) -> None:
    machine_refused(folder, "--guest", "stress", "--kernel", str(tiny.build("ticks")))


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["migrate"], ["migrate", "unix:/x"], ["migrate", "--qmp"],
                                  ["status"], ["stream"], ["stream", "/no/such/file"],
                                  ["stream", "/"], ["stream", "a", "b"],
                                  ["migrate", "--qmp", "unix:/no/such", "unix:/x"],
                                  ["status", "--qmp", "unix:/no/such"]], ids=" ".join)
def test_command_that_makes_no_sense_is_refused(argv: list[str]) -> None:
    told = run(*argv)
    assert told.returncode > 0
    assert told.stderr.startswith("godwit") or told.stderr.lower().startswith("usage")


def test_help_wins_over_nonsense_behind_it() -> None:
    """As with other GNU tools."""
    told = run("run", "--help", "x", "--nonsense")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("Usage: godwit run") and "--memory" in told.stdout


def test_file_that_is_not_there_cannot_be_opened(accel: None) -> None:
    reason = "godwit: cannot open /no/such/file: No such file or directory"
    assert run("stream", "/no/such/file").stderr.strip() == reason
    assert refused("run", "--guest", "stress", "--incoming", "file:/no/such/file") == reason


def test_socket_in_use_is_named_and_left_alone(fleet: Fleet) -> None:
    first = fleet.start("first", memory="32M", cpus=1, guest_options="hot=0,tick=1ms")
    first.serial.wait_ticks(5)
    for option, path in (("--qmp", first.qmp_path), ("--serial", first.serial_path)):
        line = refused("run", "--memory", "32M", "--cpus", "1", "--guest", "stress", option,
                       f"unix:{path}")
        assert path in line
    assert first.qmp.command("query-status")["running"] is True
    ticks = first.serial.ticks
    first.serial.wait(lambda: first.serial.ticks > ticks + 10, "ticks of the first machine")


def test_incoming_socket_in_use_is_named_and_left_alone(fleet: Fleet) -> None:
    path = f"{fleet.folder}/move"
    first = fleet.start("first", memory="32M", cpus=1, incoming=f"unix:{path}")
    first.ready()
    line = refused("run", "--memory", "32M", "--cpus", "1", "--guest", "stress", "--serial", "null",
                   "--incoming", f"unix:{path}")
    assert path in line
    assert first.status == "inmigrate"
    assert os.path.exists(path)


def test_socket_left_by_a_killed_machine_does_not_hinder_the_next(fleet: Fleet) -> None:
    first = fleet.start("same", memory="32M", cpus=1, guest_options="hot=0,tick=1ms")
    first.serial.wait_ticks(5)
    first.kill()
    first.wait_end()
    second = fleet.start("same", memory="32M", cpus=1, guest_options="hot=0,tick=1ms")
    second.serial.wait_ticks(5)
    second.qmp.command("query-status")


def test_file_in_the_place_of_a_socket_is_not_removed(accel: None, folder: Path) -> None:
    path = folder / "precious"
    path.write_text("keep me")
    refused("run", "--memory", "32M", "--cpus", "1", "--guest", "stress", "--qmp", f"unix:{path}",
            "--serial", "null")
    assert path.read_text() == "keep me"


def test_user_without_access_to_kvm_is_told_what_to_do(kvm: None) -> None:
    if os.geteuid() != 0:
        pytest.skip("changing the user needs root")
    folder = Path("/tmp") / f"godwit-nobody-{os.getpid()}"
    folder.mkdir(mode=0o755)
    program = folder / "godwit"
    try:
        shutil.copy(binary(), program)
        program.chmod(0o755)
        if subprocess.run(["test", "-w", "/dev/kvm"], user=NOBODY, extra_groups=[],
                          check=False).returncode == 0:
            pytest.skip("everybody may use this machine's accelerator")
        told = subprocess.run([str(program), "run", "--memory", "32M", "--guest", "stress",
                               "--serial", "null"], user=NOBODY, group=NOBODY, extra_groups=[],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20,
                              check=False)
    finally:
        shutil.rmtree(folder)
    assert told.returncode > 0
    lines = told.stderr.strip().splitlines()
    assert len(lines) == 1 and "/dev/kvm" in lines[0] and "Permission denied" in lines[0]
    assert "group" in lines[0] or "root" in lines[0]


# Runs the program of its arguments where openat(O_RDWR | O_CLOEXEC) ends with EPERM, as /dev/kvm's
# does where a container's device rules leave it out.  (BPF of seccomp(2): number, then flags.)
SANDBOX = """
import ctypes, os, struct, sys
steps = ((0x20, 0, 0, 0), (0x15, 0, 3, 257), (0x20, 0, 0, 32), (0x15, 0, 1, os.O_RDWR | os.O_CLOEXEC),
         (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7fff0000))
code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in steps))
rules = struct.pack("<HxxxxxxQ", len(steps), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, rules, 0, 0):
    sys.exit(f"no seccomp here: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_sandbox_without_kvm_is_told_what_to_give_it(kvm: None) -> None:
    told = subprocess.run([sys.executable, "-c", SANDBOX, binary(), "run", "--memory", "32M",
                           "--guest", "stress", "--serial", "null"], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=20, check=False)
    assert told.returncode == 1
    line, = told.stderr.splitlines()
    assert "cannot open /dev/kvm: Operation not permitted" in line and "give it /dev/kvm" in line


@pytest.mark.parametrize("options", ["unknown=1", "hot=9G", "rate=fast"])
def test_guest_that_takes_no_such_option_is_told_of(kvm: None, folder: Path, options: str) -> None:
    """It says why on its serial port, where nobody may be."""
    line = machine_refused(folder, "--guest", f"stress,{options}")
    assert f"'stress,{options}'" in line and "serial port says why" in line


def test_save_to_a_place_that_takes_none_is_said_to_be_one(kvm: None, fleet: Fleet) -> None:
    machine = fleet.start().ready()
    for path, why in ((f"{fleet.folder}/none/x", "No such file or directory"),
                      (fleet.folder, "Is a directory"), ("/dev/full", "No space left on device")):
        *_, line, where = run("migrate", "--qmp", f"unix:{machine.qmp_path}", f"file:{path}"
                          ).stderr.splitlines()
        assert "writ" in line and why in line, line
        assert "the guest is here, running" in where


def restore(folder: Path, data: bytes) -> subprocess.CompletedProcess[str]:
    path = folder / "saved"
    path.write_bytes(data)
    return run("run", *SAVED_ARGV, "--incoming", f"file:{path}", timeout_s=20)


def assert_restore_refused(told: subprocess.CompletedProcess[str], what: object) -> None:
    assert told.returncode > 0, (what, told)
    lines = told.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("godwit"), (what, told.stderr)


def test_stream_cut_off_anywhere_is_refused(saved: bytes, folder: Path) -> None:
    source = random.Random(2)
    size = len(saved)
    points = {0, 1, 7, 8, 16, 63, 64, 100, 1000, size // 2, size - 1, size - 8, size - 64}
    points |= {source.randrange(size) for _ in range(12)}
    for point in sorted(points):
        assert_restore_refused(restore(folder, saved[:point]), point)


def test_stream_with_a_changed_byte_is_refused(saved: bytes, folder: Path) -> None:
    source = random.Random(3)
    points = [*range(0, 64, 5), *(source.randrange(len(saved)) for _ in range(20)),
              *(len(saved) - source.randrange(1, 4096) for _ in range(10))]
    for point in points:
        damaged = bytearray(saved)
        damaged[point] ^= source.randrange(1, 256)
        assert_restore_refused(restore(folder, bytes(damaged)), point)


@pytest.mark.parametrize("kind", ["random", "zeroes", "ones", "text"])
def test_file_that_is_no_stream_is_refused(accel: None, folder: Path, kind: str) -> None:
    data = {"random": random.Random(4).randbytes(1 << 20), "zeroes": bytes(1 << 20),
            "ones": b"\xff" * (1 << 20), "text": b"once upon a time\n" * 5000}[kind]
    assert_restore_refused(restore(folder, data), kind)
    told = run("stream", str(folder / "saved"))
    assert told.returncode > 0 and told.stderr.startswith("godwit")


def test_explaining_a_damaged_stream_never_crashes(saved: bytes, folder: Path) -> None:
    source = random.Random(5)
    path = folder / "saved"
    for _ in range(60):
        damaged = bytearray(saved)
        for _ in range(source.randint(1, 8)):
            damaged[source.randrange(min(len(damaged), 8192))] = source.randrange(256)
        path.write_bytes(damaged[:source.randrange(1, len(damaged))])
        assert run("stream", str(path)).returncode in range(0, 128)


def test_directory_as_saved_stream_is_refused(accel: None, folder: Path) -> None:
    refused("run", "--memory", "32M", "--guest", "stress", "--serial", "null", "--incoming",
            f"file:{folder}")


def test_full_disk_fails_the_save_and_the_guest_runs_on(fleet: Fleet) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    machine = fleet.start(memory="64M", guest_options="hot=8M,tick=1ms")
    machine.serial.wait_ticks(20)
    machine.qmp.command("migrate", uri="file:/dev/full")
    assert wait(machine) == "failed"
    assert "space" in machine.qmp.command("query-migrate")["error-desc"].lower()
    assert machine.status == "running"
    machine.serial.wait_ticks(50)
    assert machine.report()["errors"] == 0


def test_serial_reader_who_never_reads_does_not_stop_the_guest(fleet: Fleet) -> None:
    machine = fleet.start(memory="32M", cpus=1, guest_options="hot=1M,tick=100us")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    machine.ready()
    sock.connect(machine.serial_path)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(3):
        machine.qmp.command("stop", timeout_s=5)
        machine.qmp.command("cont", timeout_s=5)
    sock.close()
    machine.serial.wait_ticks(20)
    assert machine.report()["errors"] == 0
