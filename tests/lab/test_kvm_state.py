# SPDX-License-Identifier: Apache-2.0
"""A vCPU's state, saved and loaded register by register, where KVM is kvm_amd."""
from __future__ import annotations

import re
from typing import Callable

from nested.lab import KVM_STATE, Lab

LIMIT_S = 120.0
PDPTRS = "test_pdptrs_are_those_of_the_memory_that_came"  # other KVMs have none


def test_state_that_kvm_amd_keeps_is_the_same_on_the_destination(
        lab: Lab, record_property: Callable[[str, str], None]) -> None:
    """tests/unit/accel/test_kvm_state.c; no case may fail."""
    done = lab.host("a").run([KVM_STATE], LIMIT_S)
    print(done.output)
    passed, skipped, failed = ({*re.findall(rf"^\[ +{word} +\] (test_\w+)", done.output, re.MULTILINE)}
                               for word in ("OK", "SKIPPED", "FAILED"))
    assert done.code == 0, f"{failed or done.code}: {done.output}"
    record_property("figure", f"{len(passed)} cases passed, skipped: "
                              f"{', '.join(sorted(skipped)) or 'none'}")
    assert PDPTRS in passed and PDPTRS not in skipped
