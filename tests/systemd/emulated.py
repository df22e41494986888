# SPDX-License-Identifier: Apache-2.0
"""An emulated machine: a kernel of its own, cgroup v2 with limits of memory and of the disk.

Not virtual, which within a virtual machine is no sure thing: some twenty times slower.
"""

import os
import shutil

import machine

PROGRAMS = ("qemu-system-x86_64", "mke2fs", "apt-get")
REPORT = "/dev/ttyS1"
# The release's first kernel for virtual machines: its disks, ext4 and cgroup v2 need no modules.
KERNEL = "5.15.0-1004-kvm"


def prepare(folder, package, pack, shim, log):
    """The kernel, and both disks."""
    if not _kernel(folder).exists():
        fetch = machine.ROOT / "jetson/deb/fetch.sh"
        words = (machine.SUITE, "amd64", folder / "kernel", f"linux-image-{KERNEL}")
        machine.run(fetch, *words, log=log)
    root = machine.make_root(folder, package, shim, REPORT, log)
    (root / "etc/fstab").write_text("/dev/vdb /var/lib/adapmoe ext4 defaults 0 0\n")
    _make_disk(folder / "root.img", root, "1500M", log)
    shutil.rmtree(root)
    content = folder / "pack"
    shutil.rmtree(content, ignore_errors=True)
    shutil.copytree(pack, content / pack.name, copy_function=os.link)
    _make_disk(folder / "pack.img", content, "200M", log)
    shutil.rmtree(content)


def words(folder, pack):
    """What starts the machine; its report comes on stdout."""
    append = "console=ttyS0 root=/dev/vda rw panic=-1 mitigations=off quiet systemd.show_status=1"
    disk = "if=virtio,format=raw,cache=unsafe"
    return [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"),
        *("-m", "2048", "-nodefaults", "-display", "none", "-nic", "none"),
        *("-device", "virtio-rng-pci", "-kernel", str(_kernel(folder)), "-append", append),
        *("-serial", f"file:{folder / 'console.log'}", "-serial", "stdio"),
        *("-drive", f"file={folder / 'root.img'},{disk}"),
        *("-drive", f"file={folder / 'pack.img'},{disk}"),
    ]


def clean_up():
    """Nothing: all of it is in one process."""


def _kernel(folder):
    return folder / f"kernel/boot/vmlinuz-{KERNEL}"


def _make_disk(image, source, size, log):
    """A file with an ext4 that holds a folder."""
    image.unlink(missing_ok=True)
    machine.run("mke2fs", "-q", "-t", "ext4", "-d", source, image, size, log=log)
