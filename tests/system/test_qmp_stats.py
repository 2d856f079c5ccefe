# SPDX-License-Identifier: Apache-2.0
"""query-stats: the kernel's counters, per VM and per vCPU."""
from __future__ import annotations

import pytest

from harness.machine import Fleet, Machine
from harness.qmp import QmpError

CPUS = 3


@pytest.fixture
def machine(fleet: Fleet) -> Machine:
    started = fleet.start(cpus=CPUS, guest_options="hot=16M,rate=1000,tick=1ms")
    started.serial.wait_ticks(20)
    return started


def stats(machine: Machine, target: str, *names: str, **more: object) -> list[dict]:
    """One object for each target, {name: value}."""
    answer = machine.qmp.command("query-stats", target=target,
                                 providers=[{"provider": "kvm", "names": list(names)}], **more)
    return [{stat["name"]: stat["value"] for stat in entry["stats"]} for entry in answer]


def test_vm_and_each_vcpu_have_counters(kvm: None, machine: Machine) -> None:
    vm, = machine.qmp.command("query-stats", target="vm")
    assert vm["provider"] == "kvm" and "qom-path" not in vm
    assert {stat["name"] for stat in vm["stats"]} > {"pages_4k", "pages_2m", "remote_tlb_flush"}
    vcpus = machine.qmp.command("query-stats", target="vcpu")
    paths = [cpu["qom-path"] for cpu in machine.qmp.command("query-cpus-fast")]
    assert [entry["qom-path"] for entry in vcpus] == paths and len(paths) == CPUS
    for entry in vcpus:
        assert {stat["name"] for stat in entry["stats"]} > {"pf_fixed", "exits"}
    histogram, = stats(machine, "vcpu", "halt_wait_hist", vcpus=[paths[0]])
    assert len(histogram["halt_wait_hist"]) > 1


def test_counters_belong_to_their_vcpu_and_go_on(kvm: None, machine: Machine) -> None:
    paths = [cpu["qom-path"] for cpu in machine.qmp.command("query-cpus-fast")]
    before = stats(machine, "vcpu", "fpu_reload")
    machine.serial.wait_ticks(1000)
    after = stats(machine, "vcpu", "fpu_reload", vcpus=paths)
    gone = [after[cpu]["fpu_reload"] - before[cpu]["fpu_reload"] for cpu in range(CPUS)]
    # Returns to user space: vCPU 0 prints the ticks, nothing calls the others back.
    assert gone[0] > 900 and gone[0] > max(gone[1:])


def test_vhost_has_counters_only_where_it_has_devices(machine: Machine) -> None:
    for target in ("vm", "vcpu"):
        assert machine.qmp.command("query-stats", target=target,
                                   providers=[{"provider": "vhost"}]) == []


@pytest.mark.parametrize("arguments, told", [
    ({}, "Parameter 'target' is missing"),
    ({"target": "disk"}, "'target' does not accept value 'disk'"),
    ({"target": "vcpu", "vcpus": ["/machine/cpu[3]"]}, "there is no '/machine/cpu\\[3\\]'"),
    ({"target": "vcpu", "vcpus": ["/machine/cpu[1]x"]}, "there is no '/machine/cpu\\[1\\]x'"),
    ({"target": "vcpu", "vcpus": [1]}, "expects string"),
    ({"target": "vm", "providers": [{"provider": "xen"}]}, "does not accept value 'xen'"),
    ({"target": "vm", "providers": [{}]}, "provider' is missing"),
])
def test_wrong_arguments_are_refused(machine: Machine, arguments: dict, told: str) -> None:
    with pytest.raises(QmpError, match=told):
        machine.qmp.command("query-stats", **arguments)
