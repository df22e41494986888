# SPDX-License-Identifier: Apache-2.0
"""NVMe drives: the model, how fast its PCIe link is, and whether the pack lies on one."""

import re
from dataclasses import dataclass

from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine
from adapmoe.doctor.mounts import mount_of
from adapmoe.kernel_tree import KernelTree

_WHY = "experts that are not resident come from the drive, and its link bounds how fast"
_DRIVE = re.compile(r"(nvme\d+)n\d+")
_SPEED = re.compile(r"([\d.]+)\s*GT/s")


@dataclass(frozen=True)
class Link:
    """A PCIe link: GT/s per lane and lanes; 0 where it is not known."""

    speed: float
    width: int

    def __str__(self) -> str:
        """Such as "16 GT/s x4"."""
        return f"{self.speed:g} GT/s x{self.width}"


def read_link(tree: KernelTree, device: str, which: str) -> Link:
    """`which`: "current" or "max" of the PCIe device at `device`."""
    match = _SPEED.match(tree.text(f"{device}/{which}_link_speed") or "")
    return Link(float(match[1]) if match else 0.0, tree.number(f"{device}/{which}_link_width") or 0)


def examine_nvme(machine: Machine, folder: str) -> list[Finding]:
    """One finding per drive, and one about where `folder` lies."""
    tree = machine.tree
    drives = [name for name in tree.names("sys/class/nvme") if re.fullmatch(r"nvme\d+", name)]
    return [_drive(tree, name) for name in drives] + [_place(machine, folder, drives)]


def _drive(tree: KernelTree, name: str) -> Finding:
    where = f"sys/class/nvme/{name}"
    model = tree.text(f"{where}/model") or "unknown model"
    device = f"{where}/device"
    now, most = read_link(tree, device, "current"), read_link(tree, device, "max")
    if not now.speed:
        return Finding("nvme", "ok", f"{name}: {model}, no PCIe link to be seen", _WHY)
    seen = f"{name}: {model}, link {now}"
    if now == most or not most.speed:
        return Finding("nvme", "ok", seen, _WHY)
    seen += f", the drive can {most}"
    slot = read_link(tree, f"{device}/..", "max")
    if slot.speed and now == Link(min(slot.speed, most.speed), min(slot.width, most.width)):
        remedy = f"nothing: the slot ends at {slot}; another slot may be faster"
        return Finding("nvme", "note", seen, _WHY, remedy)
    remedy = "seat the drive again, and look for errors of PCIe: sudo dmesg | grep -i pcie"
    return Finding("nvme", "warning", seen, _WHY, remedy)


def block_device(tree: KernelTree, number: str) -> str | None:
    """The disk or partition with a number such as "259:1"; of a mapped device, what is below."""
    for line in (tree.text(f"sys/dev/block/{number}/uevent") or "").splitlines():
        name, _, value = line.partition("=")
        if name == "DEVNAME":
            below = tree.names(f"sys/block/{value}/slaves")
            return below[0] if below else value
    return None


def _place(machine: Machine, folder: str, drives: list[str]) -> Finding:
    mount = mount_of(machine.tree, folder)
    device = block_device(machine.tree, mount.device) if mount else None
    if mount is None or device is None:
        source = f" ({mount.kind} from {mount.source})" if mount else ""
        remedy = "keep packs on an NVMe drive; in a container, mount their folder as a volume"
        return Finding("disk", "note", f"{folder} lies on no disk to be seen{source}", _WHY, remedy)
    match = _DRIVE.match(device)
    seen = f"{folder} lies on {device}"
    if match:
        return Finding("disk", "ok", seen, _WHY)
    if drives:
        return Finding(
            "disk", "warning", f"{seen}, not on NVMe", _WHY, f"move packs to {drives[0]}"
        )
    if device.startswith("mmcblk"):
        return Finding(
            "disk", "warning", f"{seen}, a memory card or eMMC", _WHY, "fit an NVMe drive"
        )
    remedy = "an NVMe drive, where reads are slow: adapmoe doctor PACK measures them"
    return Finding("disk", "note", f"{seen}; no NVMe drive to be seen", _WHY, remedy)
