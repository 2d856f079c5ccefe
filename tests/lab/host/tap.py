# SPDX-License-Identifier: Apache-2.0
"""Makes taps that stay, that two machines may have queues of, and that bridge br0 has.

usage: tap.py NAME...
"""
from __future__ import annotations

import fcntl
import struct
import subprocess
import sys

# linux/if_tun.h
TUNSETIFF, TUNSETPERSIST = 0x400454ca, 0x400454cb
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x2, 0x1000, 0x4000, 0x100

for name in sys.argv[1:]:
    with open("/dev/net/tun", "r+b", buffering=0) as tun:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(tun, TUNSETPERSIST, 1)
    subprocess.run(["brctl", "addif", "br0", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
