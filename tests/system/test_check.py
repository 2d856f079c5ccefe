# SPDX-License-Identifier: Apache-2.0
"""tools/check counts what tests told it."""
from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

CHECK = Path(__file__).resolve().parents[2] / "tools" / "check"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("godwit_check", str(CHECK))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    monkeypatch.setitem(sys.modules, loader.name, module)  # its dataclasses look there
    loader.exec_module(module)
    return module


def counted(check: ModuleType, folder: Path, stdout: str, has_kvm: bool):
    log = folder / "testlog.json"
    log.write_text(json.dumps({"name": "unit / some", "stdout": stdout, "result": "OK"}) + "\n")
    exists = Path.exists
    check.Path = type("Path", (type(log),), {
        "exists": lambda self: has_kvm if str(self) == "/dev/kvm" else exists(self)})
    return check.meson_count(log, "unit tests")


# What both generations of cmocka print for skip().
@pytest.mark.parametrize("skipped", ["not ok 2 # SKIP test_b", "ok 2 - test_b # SKIP"])
@pytest.mark.parametrize("has_kvm", [True, False])
def test_skip_for_want_of_kvm_fails_where_there_is_kvm(check: ModuleType, tmp_path: Path,
                                                       skipped: str, has_kvm: bool) -> None:
    count = counted(check, tmp_path, "1..3\nok 1 - test_a\nskipped: this KVM has no manual protect\n"
                    f"{skipped}\nok 3 - test_c\n", has_kvm)
    assert (count.passed, count.failed, count.skipped) == (2, has_kvm, not has_kvm)
    told, = count.failures + count.skips
    assert "test_b" in told and "this KVM has no manual protect" in told


def test_reason_belongs_to_the_next_skip_only(check: ModuleType, tmp_path: Path) -> None:
    count = counted(check, tmp_path, "skipped: no KVM of that kind\nok 1 - test_a\n"
                    "not ok 2 # SKIP test_b\n", True)
    assert (count.passed, count.failed, count.skipped) == (1, 0, 1)
    assert "no reason was told" in count.skips[0]


JUNIT = """<testsuites><testsuite>
<testcase classname="tests.{folder}.test_some" name="test_a"><skipped message="not today"/></testcase>
<testcase classname="tests.{folder}.test_some" name="test_b"><properties>
<property name="figure" value="pause 7 ms"/><property name="other" value="no"/></properties></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize("folder", ["system", "lab"])
@pytest.mark.parametrize("has_qemu", [True, False])
def test_skip_in_the_lab_fails_where_the_lab_can_be_had(
        check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str,
        has_qemu: bool) -> None:
    monkeypatch.setattr(check.shutil, "which", lambda name: has_qemu and name == check.QEMU)
    (tmp_path / "some.xml").write_text(JUNIT.format(folder=folder))
    count = check.junit_count(tmp_path / "some.xml")
    must_run = folder == "lab" and has_qemu
    assert (count.passed, count.failed, count.skipped) == (1, must_run, not must_run)
    assert "test_some::test_a: not today" in (count.failures + count.skips)[0]
    assert count.notes == ["test_some::test_b: pause 7 ms"]


def test_verdicts_before_the_limit_are_counted(check: ModuleType) -> None:
    """What pytest -v had printed when it was stopped."""
    count = check.verdict_count("collecting ... collected 4 items\n\n"
                                "tests/lab/test_a.py::test_one PASSED [ 25%]\n"
                                "tests/lab/test_a.py::test_one[a: 1 b] PASSED [ 26%]\n"
                                "tests/lab/test_a.py::test_two[x] RERUN [ 50%]\n"
                                "tests/lab/test_a.py::test_two[x] FAILED [ 50%]\n"
                                "tests/lab/test_b.py::test_three no end after 600 s: stopped\n")
    assert count.passed == 2
    assert count.failures == ["tests/lab/test_a.py::test_two[x]: FAILED",
                              "tests/lab/test_b.py::test_three: no end"]


def test_verdicts_of_workers_are_counted(check: ModuleType) -> None:
    count = check.verdict_count("tests/lab/test_a.py::test_one[a b] \n"
                                "tests/lab/test_a.py::test_two \n"
                                "[gw1] [ 25%] PASSED tests/lab/test_a.py::test_two \n"
                                "tests/lab/test_b.py::test_three \n"
                                "[gw1] [ 50%] FAILED tests/lab/test_b.py::test_three \n")
    assert count.passed == 1
    assert sorted(count.failures) == ["tests/lab/test_a.py::test_one[a b]: no end",
                                      "tests/lab/test_b.py::test_three: FAILED"]


def test_each_term_of_the_release_build_names_a_test(check: ModuleType) -> None:
    """pytest says nothing of a term that matches none."""
    names = [name for path in Path(__file__).parent.glob("test_*.py")
             for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)]
    terms = check.RELEASE.split(" or ")
    assert [term for term in terms if not any(term in name for name in names)] == []
