# SPDX-License-Identifier: Apache-2.0
"""A guest starts, works, and its end is godwit's exit code (docs/exit-codes.md)."""
from __future__ import annotations

import signal
from pathlib import Path

import pytest

from harness import guest
from harness.machine import Fleet, Machine, run
from harness.move import move
from harness.qmp import QmpError
from harness.scene import listening
from harness.tiny import Tiny


DEBUG_EXIT = 192  # docs/exit-codes.md
DAMAGE = ["lost", "stale", "torn", "swapped", "corrupt", "table", "register", "fill"]


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_stress_ticks_and_finds_its_memory_right(fleet: Fleet, cpus: int) -> None:
    machine = fleet.start(cpus=cpus)
    machine.serial.wait_ticks(20)
    first = machine.report()
    machine.serial.wait_ticks(100)
    second = machine.report()
    assert second["errors"] == 0
    assert second["pages"] > first["pages"]
    assert second["checked"] > first["checked"]
    assert len(machine.qmp.command("query-cpus-fast")) == cpus


def test_stress_finds_every_kind_of_damage_and_names_the_page(kvm: None, fleet: Fleet) -> None:
    """What other tests conclude from the lack of its complaints."""
    lines: list[str] = []
    while not any(line.startswith("stress") for line in lines):  # what nobody reads yet is lost
        assert len(fleet.machines) < 5
        machine = fleet.start(guest_options="hot=1M,fill=1M,selftest=on,tick=1ms")
        machine.serial.wait_line(r"ready\b")  # not before it has found them all
        lines = [line for _, line in machine.serial.lines]
    opening = guest.parse(next(line for line in lines if line.startswith("stress")))
    told = [line.split()[1:] for _, line in machine.serial.lines if line.startswith("selftest")]
    assert told == [[kind, "found"] for kind in DAMAGE]
    complaints = guest.complaints(machine.serial)
    assert len(complaints) == len(DAMAGE)
    lost = guest.parse(next(line for line in complaints if line.startswith("error lost ")))
    assert int(lost.members["gpa"], 16) == int(opening.members["first"], 16)
    assert lost["cpu"] == 0 and lost["expected"] > lost["found"] == 0
    machine.serial.wait_ticks(20)
    assert machine.report()["errors"] == 0  # it counts from here


def cpu_ms(machine: Machine, thread: int) -> float:
    fields = Path(f"/proc/{machine.process.pid}/task/{thread}/schedstat").read_text().split()
    return int(fields[0]) / 1e6


def test_vcpus_that_the_guest_does_not_use_take_no_processor(kvm: None, fleet: Fleet) -> None:
    """Before a move and after it: what is measured with many vCPUs is godwit."""
    machine = fleet.start(cpus=4, guest_options="cpus=1,hot=0,tick=1ms")
    there, uri = listening(fleet, cpus=4, guest_options="cpus=1,hot=0,tick=1ms")
    for is_moved in (False, True):
        if is_moved:
            assert move(machine, there, uri).status == "completed"
            machine = there
        machine.serial.wait_ticks(100)  # they have halted
        threads = [cpu["thread-id"] for cpu in machine.qmp.command("query-cpus-fast")]
        before = [cpu_ms(machine, thread) for thread in threads]
        machine.serial.wait_ticks(1000)
        took = [cpu_ms(machine, thread) - ms for thread, ms in zip(threads, before)]
        assert len(took) == 4 and max(took[1:]) < took[0] / 20, took


def test_idle_guest_ticks(fleet: Fleet) -> None:
    machine = fleet.start(guest_options="hot=0,tick=1ms")
    machine.serial.wait_ticks(100)
    assert machine.report()["errors"] == 0


def test_memory_above_4_gib_is_worked_on(fleet: Fleet) -> None:
    machine = fleet.start(memory="6G", guest_options="skip=4608M,hot=64M,rate=max,tick=1ms")
    machine.serial.wait_ticks(200)
    assert machine.report()["errors"] == 0


def test_guest_that_finishes_ends_godwit_with_its_own_code(fleet: Fleet) -> None:
    machine = fleet.start()
    machine.serial.wait_ticks(5)
    machine.serial.send(b"q")
    machine.serial.wait_line("exit", timeout_s=10)
    assert machine.wait_end() == 0
    assert not guest.complaints(machine.serial)


@pytest.mark.parametrize("value", [0, 1, 63, 77])
def test_debug_exit_value_is_in_the_exit_code(fleet: Fleet, tiny: Tiny, value: int) -> None:
    kernel = tiny.build("debug_exit", value=value)
    machine = fleet.start(cpus=1, guest_options=None, extra=["--kernel", str(kernel)])
    assert machine.wait_end() == (DEBUG_EXIT + value % 64 if value else 0)


@pytest.mark.parametrize("kind, code", [("reset", "reset"), ("triple_fault", "triple-fault")])
def test_guest_that_dies_ends_godwit_with_the_documented_code(
        fleet: Fleet, tiny: Tiny, kind: str, code: str) -> None:
    machine = fleet.start(cpus=1, guest_options=None, extra=["--kernel", str(tiny.build(kind))])
    assert machine.wait_end() == documented(code)
    assert machine.output.count("vCPU 0: triple fault") == (kind == "triple_fault")


def test_guest_that_powers_off_ends_godwit_with_the_documented_code(
        fleet: Fleet, tiny: Tiny) -> None:
    kernel = tiny.build("power_off", port=0x604, value=0x3400)
    machine = fleet.start(cpus=1, guest_options=None, extra=["--kernel", str(kernel)])
    assert machine.wait_end() == documented("powered off")


def test_power_button_reaches_the_guest_which_powers_off(fleet: Fleet, tiny: Tiny) -> None:
    machine = fleet.start(cpus=1, guest_options=None,
                          extra=["--kernel", str(tiny.build("power_button"))])
    machine.qmp.command("system_powerdown")
    machine.qmp.wait_event("POWERDOWN")
    shutdown = machine.qmp.wait_event("SHUTDOWN")
    assert shutdown["data"] == {"guest": True, "reason": "guest-shutdown"}
    assert machine.wait_end() == documented("powered off")


def test_power_button_of_a_machine_that_does_not_run_is_an_error(fleet: Fleet) -> None:
    machine = fleet.start()
    machine.serial.wait_ticks(5)
    machine.qmp.command("stop")
    with pytest.raises(QmpError, match="cannot power down a machine that is paused"):
        machine.qmp.command("system_powerdown")
    machine.qmp.command("cont")
    assert machine.qmp.command("system_powerdown") == {}
    machine.serial.wait_ticks(20)  # this guest does not listen


def test_quit_ends_godwit_with_the_documented_code(fleet: Fleet) -> None:
    machine = fleet.start()
    machine.serial.wait_ticks(5)
    machine.qmp.command("quit")
    assert machine.wait_end() == documented("quit")
    assert_nothing_left(machine.folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_godwit_cleanly(fleet: Fleet, number: int) -> None:
    machine = fleet.start()
    machine.serial.wait_ticks(5)
    machine.kill(number)
    code = machine.wait_end()
    assert code == documented(signal.Signals(number).name)
    assert_nothing_left(machine.folder)


def test_signal_ends_a_machine_that_waits_for_a_migration(fleet: Fleet) -> None:
    machine = fleet.start(incoming=f"unix:{fleet.folder}/move")
    assert machine.status == "inmigrate"
    machine.kill(signal.SIGTERM)
    machine.wait_end()
    assert_nothing_left(machine.folder)


def test_stop_stops_and_cont_goes_on(fleet: Fleet) -> None:
    machine = fleet.start()
    machine.serial.wait_ticks(20)
    machine.qmp.command("stop")
    machine.qmp.wait_event("STOP")
    assert machine.status == "paused"
    # What was printed before the stop may still arrive; what comes from a
    # request made now may not.
    since = len(machine.serial.lines)
    machine.serial.send(b"g")
    assert machine.qmp.command("query-status")["running"] is False
    machine.qmp.command("cont")
    machine.qmp.wait_event("RESUME")
    machine.serial.wait_line("report", since)
    machine.serial.wait_ticks(20)
    assert machine.report()["errors"] == 0


def test_kernel_gets_its_initrd_command_line_and_acpi_tables(
        kvm: None, tiny: Tiny, tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(bytes(range(256)) * 1000)
    told = run("run", "--kernel", str(tiny.build("boot_data")), "--initrd", str(initrd),
               "--append", "quiet a=b", "--serial", "stdio")
    assert told.stdout == (f"@tiny\n@boot quiet a=b initrd={initrd.stat().st_size:08x}"
                           " rsdp=RSD PTR \n")
    assert told.returncode == 0


def test_bzimage_starts_in_long_mode_with_its_command_line_and_acpi_tables(kvm: None, tiny: Tiny) -> None:
    told = run("run", "--kernel", str(tiny.bzimage()), "--append", "quiet a=b", "--serial", "stdio")
    assert told.stdout == "@boot quiet a=b RSD PTR \n"
    assert told.returncode == DEBUG_EXIT + 0x10  # its code segment


def documented(what: str) -> int:
    """The exit code that docs/exit-codes.md gives for @what."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "exit-codes.md").read_text()
    for line in text.splitlines():
        cells = [cell.strip(" `*") for cell in line.strip().strip("|").split("|")]
        if len(cells) > 1 and cells[0].isdigit() and what.lower() in line.lower():
            return int(cells[0])
    raise AssertionError(f"docs/exit-codes.md says nothing of {what!r}")


def assert_nothing_left(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == []


def test_version_and_help_are_those_of_a_gnu_tool() -> None:
    for option in ("--version", "--help"):
        told = run(option)
        assert told.returncode == 0 and "godwit" in told.stdout and told.stderr == ""
