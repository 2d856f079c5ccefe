# SPDX-License-Identifier: Apache-2.0
"""godwit sim: what it prints, what it refuses, and that it is not far from the truth."""
from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.machine import Fleet, run
from harness.move import move

GIB = 1 << 30
BUSY = ("--memory", "1G", "--cpus", "2", "--workload", "hot=100M,rate=20k/s,pattern=random")


def sim(*argv: str) -> subprocess.CompletedProcess[str]:
    return run("sim", *argv)


def plans(*argv: str) -> list[dict[str, Any]]:
    told = sim(*argv, "--json")
    assert told.returncode == 0 and not told.stderr, told
    assert told.stdout.count("\n") == 1
    return json.loads(told.stdout)["plans"]


def test_text_tells_rounds_total_pause_and_bytes() -> None:
    told = sim(*BUSY, "--link", "rate=10Gb/s,latency=50us")
    assert told.returncode == 0 and not told.stderr
    for words in ("1.00 GiB touched, 2 vCPUs", "random, 20000 accesses/s", "50 us one way",
                  "round 1 ", "moves in ", "sends ", "in the pause", "save-state", "dst-load"):
        assert words in told.stdout, told.stdout


def test_json_has_all_that_text_has() -> None:
    (plan,) = plans(*BUSY)
    assert plan["parameters"] == {
        "memory": GIB, "touched": GIB, "cpus": 2, "pattern": "random", "hot": 100 << 20,
        "reads": 0, "burst-ns": 0, "rate": 20000.0, "link": None, "latency-ns": 0,
        "downtime-limit": 300, "max-bandwidth": 0, "throttle": True}
    assert plan["moves"] is True and plan["outcome"] == "moves"
    assert len(plan["round-list"]) == plan["rounds"] >= 2
    assert set(plan["round-list"][0]) == {"remaining-bytes", "sync-us", "pass-us", "expected-us",
                                          "throttle-share"}
    phases = plan["pause"]["phases"]
    source = sum(phase["us"] for phase in phases if phase["side"] == "source")
    assert abs(source - plan["pause"]["downtime-us"]) < 2
    assert plan["ram"]["transferred"] >= GIB
    # Written in two parts, each rounded.
    assert abs(plan["ram"]["precopy-bytes"] + plan["ram"]["downtime-bytes"]
               - plan["ram"]["transferred"]) <= 1
    assert plan["total-us"] > plan["setup-us"] + plan["pause"]["downtime-us"]
    assert 0 <= plan["guest"]["slowed-percent"] <= 100
    assert plan["throttle"] == {"us": 0.0, "share": 1.0}


def test_a_plan_that_never_moves_has_no_pause() -> None:
    argv = ("--memory", "4G", "--workload", "hot=2G,rate=100k/s", "--link", "rate=1Gb/s",
            "--throttle", "off")
    (plan,) = plans(*argv)
    assert plan["moves"] is False and plan["outcome"] == "link-too-slow"
    assert plan["pause"] is None
    assert "never moves" in sim(*argv).stdout


def test_throttling_is_told() -> None:
    (plan,) = plans("--memory", "4G", "--workload", "hot=2G,rate=100k/s,pattern=random", "--link",
                    "rate=1Gb/s")
    assert plan["moves"] is True
    assert plan["throttle"]["us"] > 0 and 0 < plan["throttle"]["share"] < 1
    assert plan["guest"]["slowed-percent"] > 10


def test_a_pair_of_sweeps_is_a_table_of_all_combinations() -> None:
    argv = (*BUSY, "--sweep", "link=1Gb/s,10Gb/s", "--sweep", "cpus=1,2,4")
    rows = sim(*argv).stdout.splitlines()
    assert rows[0].split()[:2] == ["link", "cpus"]
    assert [row.split()[:2] for row in rows[1:]] == [
        [link, cpus] for link in ("1Gb/s", "10Gb/s") for cpus in ("1", "2", "4")]
    told = plans(*argv)
    assert [(plan["parameters"]["link"], plan["parameters"]["cpus"]) for plan in told] == [
        (rate, cpus) for rate in (125000000, 1250000000) for cpus in (1, 2, 4)]
    assert "round-list" not in told[0]
    # More vCPUs have more to save; a faster link ends sooner.
    assert told[0]["pause"]["downtime-us"] < told[2]["pause"]["downtime-us"]
    assert told[3]["total-us"] < told[0]["total-us"]


def test_units_are_taken_as_elsewhere() -> None:
    (plan,) = plans("--memory", "2G", "--touched", "1G", "--workload",
                    "hot=64M,rate=8192kB/s,reads=50,burst=10ms,pattern=zipf", "--link",
                    "rate=1GiB/s,latency=1ms", "--max-bandwidth", "100M")
    told = plan["parameters"]
    assert (told["rate"], told["reads"], told["burst-ns"]) == (2000.0, 50, 10_000_000)
    assert (told["link"], told["latency-ns"], told["max-bandwidth"]) == (GIB, 1_000_000, 100 << 20)


def test_costs_by_hand_are_used() -> None:
    slow, = plans("--memory", "1G", "--cost", "fresh=100MB/s")
    assert slow["total-us"] > 10e6
    waits, = plans("--memory", "1G", "--cpus", "4", "--cost", "save-vcpu=10ms,load=0")
    save = next(phase["us"] for phase in waits["pause"]["phases"] if phase["name"] == "save-state")
    assert save > 40_000


def test_costs_are_listed_as_they_are_given() -> None:
    told = sim("--cost", "help")
    assert told.returncode == 0
    listed = [line.split()[:2] for line in told.stdout.splitlines()]
    assert ["fault", "5000ns"] in listed and ["fresh", "1300000000B/s"] in listed
    given = ",".join(f"{key}={value}" for key, value in listed)
    assert plans("--memory", "1G", "--cost", given) == plans("--memory", "1G")


@pytest.mark.parametrize("argv", [
    ("--memory", "1G", "--touched", "2G"),
    ("--memory", "1G", "--workload", "hot=2G"),
    ("--memory", "1G", "--touched", "100M", "--workload", "hot=200M"),
    ("--memory", "1G", "--workload", "rate=20k/s"),
    ("--memory", "1G", "--workload", "burst=10ms"),
    ("--memory", "1G", "--workload", "hot=4K", "--cpus", "2"),
    ("--memory", "1G", "--cpus", "0"),
    ("--memory", "1G", "--cpus", "100000"),
    ("--memory", "0"),
    ("--memory", "2000P"),
    ("--memory", "99999999999P"),
    ("--memory", "1G", "--workload", "hot=1M,reads=101"),
    ("--memory", "1G", "--link", "rate=0Gb/s"),
    ("--memory", "1G", "--link", "latency=1000s"),
    ("--memory", "1G", "--downtime-limit", "99999999"),
    ("--memory", "1G", "--cost", "warm=0B/s"),
    ("--memory", "1G", "--cost", "write=0"),
    ("--memory", "1G", "--sweep", "hot=1M,2G"),
    ("--memory", "1G", "--sweep", "cpus=1,0"),
    ("--memory", "1G", "--sweep", "cpus=" + ",".join(["1"] * 1001)),
    ("--memory", "1G", "--sweep", "cpus=" + ",".join(["1"] * 40),
     "--sweep", "latency=" + ",".join(["1us"] * 40)),
])
def test_contradictory_or_absurd_parameters_are_one_line_and_exit_2(argv: tuple[str, ...]) -> None:
    told = sim(*argv)
    assert told.returncode == 2, told
    assert told.stderr.startswith("godwit: ") and told.stderr.count("\n") == 1
    assert not told.stdout


@pytest.mark.parametrize("argv", [
    (),
    ("--memory", "1.5G"),
    ("--memory", "1G", "2G"),
    ("--memory", "1G", "--throttle", "maybe"),
    ("--memory", "1G", "--workload", "pattern=lru"),
    ("--memory", "1G", "--workload", "hot"),
    ("--memory", "1G", "--workload", "memory=1G"),
    ("--memory", "1G", "--workload", "hot=1M,,rate=max"),
    ("--memory", "1G", "--link", "rate=10G"),
    ("--memory", "1G", "--link", "latency=10"),
    ("--memory", "1G", "--cost", "magic=1us"),
    ("--memory", "1G", "--cost", "warm=10us"),
    ("--memory", "1G", "--sweep", "cpus"),
    ("--memory", "1G", "--sweep", "cpus="),
    ("--memory", "1G", "--sweep", "cpus=1,,2"),
    ("--memory", "1G", "--sweep", "color=red"),
    ("--memory", "1G", "--sweep", "cpus=1", "--sweep", "cpus=2"),
])
def test_what_cannot_be_read_is_a_wrong_command_line(argv: tuple[str, ...]) -> None:
    told = sim(*argv)
    assert told.returncode == 64, told
    assert "godwit sim: " in told.stderr and not told.stdout


def sample(cpus: int | None, **members: Any) -> dict[str, Any]:
    """What `godwit status --json` says of a source; without @cpus, what migrate says."""
    info = {"status": "completed", "incoming": False, "total-time": 1100, "setup-time": 0,
            "pause": {"downtime-us": 500, "phases": [
                {"name": "stop-vcpus", "side": "source", "us": 100.0 + 50 * (cpus or 0)},
                {"name": "save-state", "side": "source", "us": 30.0 * (cpus or 0)},
                {"name": "wait-running", "side": "source", "us": 50.0},
                {"name": "dst-load", "side": "destination", "us": 40.0 * (cpus or 0)},
                {"name": "dst-start", "side": "destination", "us": 10.0}]},
            "ram": {"total": 2 * GIB, "holes": GIB // 4096, "page-size": 4096,
                    "precopy-bytes": GIB, "mbps": 8000.0, "dirty-sync-count": 2}}
    info.update(members)
    return info if cpus is None else {"cpus": [{}] * cpus, "migration": info}


def costs(path: Path) -> dict[str, float]:
    told = sim("--memory", "1G", "--json", "--calibrate-from", str(path))
    assert told.returncode == 0, told
    return json.loads(told.stdout)["costs"]


def test_costs_come_from_migrations_that_happened(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text("".join(json.dumps(sample(cpus)) + "\n" for cpus in (1, 2, 2, 4))
                    + json.dumps(sample(8, status="failed")))
    told = costs(path)
    assert told["stop-ns"] == pytest.approx(100e3) and told["stop-vcpu-ns"] == pytest.approx(50e3)
    assert told["save-ns"] == pytest.approx(0) and told["save-vcpu-ns"] == pytest.approx(30e3)
    assert told["load-vcpu-ns"] == pytest.approx(40e3)
    assert told["start-ns"] == pytest.approx(10e3) and told["message-ns"] == pytest.approx(20e3)
    # 500 us are 190, 70, 70 and -170 longer than all of these.
    assert told["rest-ns"] == pytest.approx(70e3)
    # 1 GiB in 1.1 s, of which clearing and scanning took 40 ms.
    assert 0.95 < told["fresh-bytes-per-s"] / (GIB / 1.06) < 1.05
    # Nothing was sent twice: as much faster as by default.
    assert told["warm-bytes-per-s"] / told["fresh-bytes-per-s"] == pytest.approx(2.2 / 1.3)


@pytest.mark.parametrize("alone_ms, each_ms, crowd, seconds", [
    (1000, 250, 25, 1.0),
    (500, 500, 50, 0.78),  # more than there are processors to take from: half for each, at most
])
def test_guests_that_share_processors_with_the_move_slow_it(
        tmp_path: Path, alone_ms: int, each_ms: int, crowd: int, seconds: float) -> None:
    """Moves of guests with two and with four vCPUs tell what each of them takes."""
    path = tmp_path / "runs.json"
    path.write_text("".join(json.dumps(sample(cpus, **{"total-time": alone_ms + cpus * each_ms}))
                            for cpus in (2, 4, 2, 4)))
    told = costs(path)
    assert told["crowd-percent"] == pytest.approx(crowd, rel=0.25)
    assert told["fresh-bytes-per-s"] == pytest.approx(GIB / seconds, rel=0.1)
    plan, = plans("--memory", "1G", "--cpus", "3", "--calibrate-from", str(path))
    assert plan["total-us"] == pytest.approx((alone_ms + 3 * each_ms) * 1e3, rel=0.05)


def test_a_known_workload_tells_what_faults_cost(tmp_path: Path) -> None:
    """The planner's own figures, fed back as a migration: the cost that made them is found."""
    argv = ("--memory", "1G", "--cpus", "2", "--workload", "hot=256M,rate=max,pattern=random")
    (plan,) = plans(*argv, "--cost", "fault=40us")
    ram = sample(2)["migration"]["ram"] | {"precopy-bytes": plan["ram"]["precopy-bytes"],
                                           "holes": GIB // 4096, "mbps": 2.2e9 * 8 / 1e6}
    happened = sample(2, **{"total-time": plan["total-us"] / 1e3, "ram": ram,
                            "pause": plan["pause"]})
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(happened | {"workload": argv[-1]}))
    assert costs(path)["fault-ns"] == pytest.approx(40e3, rel=0.25)
    path.write_text(json.dumps(happened))
    assert costs(path)["fault-ns"] == 5000.0
    path.write_text(json.dumps(happened | {"workload": "hot=2G"}))
    told = sim("--memory", "1G", "--calibrate-from", str(path))
    assert told.returncode == 1 and "migration 1: workload: hot memory" in told.stderr


def test_migrate_s_own_answer_tells_throughput_only(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(sample(None)))
    before = json.loads(sim("--memory", "1G", "--json").stdout)["costs"]
    told = costs(path)
    assert told["fresh-bytes-per-s"] != before["fresh-bytes-per-s"]
    assert told["save-vcpu-ns"] == before["save-vcpu-ns"]


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", "nonsense", "{}{}x", '{"migration": 7}',
                                  '{"status": "completed", "ram": [], "pause": {"phases": 3}}',
                                  pytest.param("[" * 100000, id="deep")])
def test_a_file_that_tells_nothing_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "runs.json"
    path.write_text(text)
    told = sim("--memory", "1G", "--calibrate-from", str(path))
    assert told.returncode == 1 and told.stderr.count("\n") == 1, told
    assert str(path) in told.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    told = sim("--memory", "1G", "--calibrate-from", str(tmp_path / "none"))
    assert told.returncode == 1 and "none: open: No such file" in told.stderr


def test_help_names_sim_and_sim_names_its_options() -> None:
    assert "predict a migration" in run("--help").stdout
    told = run("sim", "--help").stdout
    for option in ("--memory", "--workload", "--link", "--sweep", "--calibrate-from", "--cost"):
        assert option in told


def moved(fleet: Fleet, name: str) -> dict[str, Any]:
    """A guest of 96 MiB of random words moves; its source's `godwit status --json`."""
    options = {"memory": "256M", "cpus": 1, "guest_options": "hot=0,fill=96M,tick=1ms"}
    source = fleet.start(f"{name}-source", **options)
    source.serial.wait_ticks(10, timeout_s=60)
    uri = f"unix:{fleet.folder}/{name}"
    destination = fleet.start(f"{name}-destination", incoming=uri, **options)
    result = move(source, destination, uri)
    assert result.status == "completed", result.info
    told = run("status", "--qmp", f"unix:{source.qmp_path}", "--json")
    fleet.retire(source)
    fleet.retire(destination)
    return json.loads(told.stdout)


def test_prediction_and_migration_are_of_one_size(fleet: Fleet, tmp_path: Path) -> None:
    """Loosely, whatever else this machine does; bench/sim-accuracy measures."""
    path = tmp_path / "runs.json"
    path.write_text("\n".join(json.dumps(moved(fleet, f"before{i}")) for i in range(2)))
    real = moved(fleet, "real")["migration"]
    told = sim("--memory", "256M", "--touched", "97M", "--calibrate-from", str(path), "--json")
    assert told.returncode == 0, told
    plan = json.loads(told.stdout)["plans"][0]
    assert plan["moves"] is True
    assert plan["ram"]["transferred"] == pytest.approx(real["ram"]["transferred"], rel=0.05)
    assert real["total-time"] / 8 < plan["total-us"] / 1e3 < real["total-time"] * 8, real
    assert real["pause"]["downtime-us"] / 8 < plan["pause"]["downtime-us"] \
        < real["pause"]["downtime-us"] * 8, real
