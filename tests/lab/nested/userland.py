# SPDX-License-Identifier: Apache-2.0
"""A Linux guest with users: busybox's init, a login on the serial port, and acpid."""
from __future__ import annotations

from .cpio import Archive
from .packages import Packages

INITRD = "/lab/userland.cpio"
MODULES = ("button", "evdev", "virtio_pci", "virtio_blk", "virtio_net", "virtio_rng",
           "virtio_console")
USER, PASSWORD = "root", "tern"
HASH = ("$6$godwit$U65Qq6OQoLs65f.IPWa3RPiR4dLFPDfwPS.VsqxAEVHiKl9FouHXIMwNQ1WijpceK5avXJsJEuk3cDj"
        "q9zIpe1")  # openssl passwd -6 -salt godwit tern
BUTTON = "the power button was pressed"
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /etc /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in {modules}; do insmod /$module; done
exec /bin/init
"""
WRITER = "/bin/write-files"
REST_US = 200000  # a file a moment, and not all that the emulator can do
# Sums and all that it knows are in memory, in the folder's neighbour.
WRITE_FILES = f"""#!/bin/sh
number=0
while [ ! -e $1-sums/stop ]; do
    number=$((number + 1))
    name=$((number % 32))
    dd if=/dev/urandom of=$1/$name bs=16k count=$((number % 7 + 1)) conv=fsync
    cd $1
    sha256sum $name > $1-sums/of-$name
    cd /
    echo $number > $1-sums/next
    mv $1-sums/next $1-sums/count  # who reads it sees a number
    usleep {REST_US}
done
: > $1-sums/stopped
"""
INITTAB = """ttyS0::respawn:/bin/getty -L 115200 ttyS0 vt100
::respawn:/bin/acpid -d -l /dev/null
"""
# Where busybox's acpid looks for what a pressed power button is to do.
PRESSED = f"""#!/bin/sh
echo {BUTTON} > /dev/ttyS0
poweroff
"""


def initrd(packages: Packages) -> bytes:
    archive = Archive()
    archive.copy(packages.busybox, "/bin/busybox")
    archive.device("/dev/console", 5, 1)
    modules = packages.modules(*MODULES)
    for module in modules:
        archive.copy(module, f"/{module.name}")
    archive.file("/init", INIT.format(modules=" ".join(m.name for m in modules)).encode())
    archive.file(WRITER, WRITE_FILES.encode())
    archive.file("/etc/inittab", INITTAB.encode(), 0o644)
    archive.file("/etc/passwd", f"{USER}:{HASH}:0:0::/:/bin/sh\n".encode(), 0o600)
    archive.file("/etc/group", b"root:x:0:\n", 0o644)
    archive.file("/etc/acpi/PWRF/00000080", PRESSED.encode())
    return archive.pack()
