# SPDX-License-Identifier: Apache-2.0
"""A network namespace of its own, with a bridge and taps, for one test."""
from __future__ import annotations

import os
import shutil
import subprocess
from typing import Iterator

import pytest


class Network:
    def __init__(self, name: str) -> None:
        self.name = name

    def ip(self, *argv: str) -> str:
        return subprocess.run(["ip", "-n", self.name, *argv], check=True, capture_output=True,
                              text=True, timeout=20).stdout

    def run(self, *argv: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ip", "netns", "exec", self.name, *argv], capture_output=True,
                              text=True, timeout=timeout_s, check=False)

    def bridge(self, *taps: str, queues: bool = True) -> None:
        """Bridge br0 with @taps, which two machines can share if they have @queues."""
        self.ip("link", "add", "br0", "type", "bridge", "forward_delay", "0")
        self.ip("link", "set", "br0", "up")
        for tap in taps:
            self.ip("tuntap", "add", "dev", tap, "mode", "tap",
                    *(["multi_queue"] if queues else []))
            self.ip("link", "set", tap, "master", "br0", "up")


def namespace() -> Iterator[Network]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if not shutil.which("ip"):
        pytest.skip("iproute2 is not installed")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("this machine has no /dev/net/tun")
    name = f"godwit-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=20)
    try:
        network = Network(name)
        # What the kernel says by itself would be in the way of counting.
        network.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1",
                    "net.ipv6.conf.all.disable_ipv6=1")
        network.ip("link", "set", "lo", "up")
        yield network
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True, timeout=20)
