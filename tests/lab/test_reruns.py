# SPDX-License-Identifier: Apache-2.0
"""Which tests of the lab run again when they fail."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.machine import binary

LAB = Path(__file__).resolve().parent
TEST = """
from nested.verdict import WrongContent


def test_that_fails():
    raise {what}("words")
"""
LIMIT_S = 60


@pytest.mark.parametrize("what, times", [("TimeoutError", 2), ("AssertionError", 2),
                                         ("WrongContent", 0)])
def test_wrong_content_fails_at_once_and_all_else_may_run_again(tmp_path: Path, what: str, times: int
                                                                ) -> None:
    test = tmp_path / "test_some.py"
    test.write_text(TEST.format(what=what))
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "conftest",
                           test], capture_output=True, text=True, check=False, timeout=LIMIT_S,
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(LAB),
                                             "GODWIT": os.path.abspath(binary())})
    assert "1 failed" in done.stdout, done.stdout + done.stderr
    told = re.search(r"(\d+) rerun", done.stdout)
    assert (int(told[1]) if told else 0) == times
