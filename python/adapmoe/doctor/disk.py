# SPDX-License-Identifier: Apache-2.0
"""The disk: its link, O_DIRECT and io_uring, the best queue depth."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapmoe.doctor.build import io_uring_problem
from adapmoe.doctor.machine import Finding, Machine
from adapmoe.errors import AdapmoeError, PackError
from adapmoe.machine.bandwidth import DiskProbe, measure_disk, open_direct, read_buffer
from adapmoe.machine.procfs import KernelTree, mount_of
from adapmoe.opening.read_settings import remember
from adapmoe.pack.manifest import Manifest
from adapmoe.units import format_bytes

_WHY_LINK = "experts that are not resident come from the drive, and its link bounds how fast"
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
        return Finding("nvme", "ok", f"{name}: {model}, no PCIe link to be seen", _WHY_LINK)
    seen = f"{name}: {model}, link {now}"
    if now == most or not most.speed:
        return Finding("nvme", "ok", seen, _WHY_LINK)
    seen += f", the drive can {most}"
    slot = read_link(tree, f"{device}/..", "max")
    if slot.speed and now == Link(min(slot.speed, most.speed), min(slot.width, most.width)):
        remedy = f"nothing: the slot ends at {slot}; another slot may be faster"
        return Finding("nvme", "note", seen, _WHY_LINK, remedy)
    remedy = "seat the drive again, and look for errors of PCIe: sudo dmesg | grep -i pcie"
    return Finding("nvme", "warning", seen, _WHY_LINK, remedy)


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
        return Finding(
            "disk", "note", f"{folder} lies on no disk to be seen{source}", _WHY_LINK, remedy
        )
    match = _DRIVE.match(device)
    seen = f"{folder} lies on {device}"
    if match:
        return Finding("disk", "ok", seen, _WHY_LINK)
    if drives:
        return Finding(
            "disk", "warning", f"{seen}, not on NVMe", _WHY_LINK, f"move packs to {drives[0]}"
        )
    if device.startswith("mmcblk"):
        return Finding(
            "disk", "warning", f"{seen}, a memory card or eMMC", _WHY_LINK, "fit an NVMe drive"
        )
    remedy = "an NVMe drive, where reads are slow: adapmoe doctor PACK measures them"
    return Finding("disk", "note", f"{seen}; no NVMe drive to be seen", _WHY_LINK, remedy)


_BYTES = 4096


@contextmanager
def probe_file(folder: Path) -> Iterator[Path]:
    """A file of at least 4 KiB in `folder`; removed again if it was made here.

    Raises:
        OSError: there is none, and none can be made.
    """
    experts = folder / "experts.safetensors"
    if experts.is_file():
        yield experts
        return
    descriptor, name = tempfile.mkstemp(prefix=".adapmoe-doctor-", dir=folder)
    try:
        try:
            os.write(descriptor, bytes(_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def reads_direct(path: Path) -> bool:
    """Whether a read past the page cache works: not only opening, which some allow in vain.

    Raises:
        OSError: not even an ordinary read works.
    """
    descriptor, direct = open_direct(path)
    try:
        with read_buffer(_BYTES) as buffer:
            try:
                os.preadv(descriptor, [buffer], 0)
            except OSError:
                if not direct:
                    raise
                return False
    finally:
        os.close(descriptor)
    return direct


_WHY_DIRECT = (
    "without it the page cache keeps a second copy of what is read, in memory that experts need"
)
_WHY_RING = "one thread keeps many reads in flight; without it a pool of threads reads"
_CAP_IPC_LOCK = 14
_SECCOMP = "2"  # filter, in /proc/self/status


@dataclass(frozen=True)
class Trial:
    """What reading in a folder gave.

    Attributes:
        direct: whether O_DIRECT works; None if it could not be tried.
        ring: why io_uring cannot be used, "" where it can; None if it could not be tried.
        reason: why it could not be tried.
    """

    direct: bool | None
    ring: str | None
    reason: str = ""


def try_reading(folder: Path) -> Trial:
    """Read 4 KiB in `folder`. Never raises."""
    try:
        with probe_file(folder) as path:
            direct = reads_direct(path)
            return Trial(direct, io_uring_problem(path) if direct else None)
    except OSError as error:
        return Trial(None, None, f"{folder}: {error.strerror}")
    except PackError as error:
        return Trial(None, None, str(error))


def examine_disk_access(machine: Machine, folder: str, trial: Trial) -> list[Finding]:
    """What `trial` means, with what the kernel says about it."""
    return [_direct(machine, folder, trial), _ring(machine, trial)]


def _direct(machine: Machine, folder: str, trial: Trial) -> Finding:
    if trial.direct is None:
        remedy = "give a pack, or a folder that can be written"
        return Finding("o_direct", "note", f"not tried, {trial.reason}", _WHY_DIRECT, remedy)
    mount = mount_of(machine.tree, folder)
    where = f"{mount.kind} at {mount.point}" if mount else folder
    if trial.direct:
        return Finding("o_direct", "ok", f"works on {where}", _WHY_DIRECT)
    remedy = "keep packs on ext4 or xfs; in a container, mount their folder as a volume"
    return Finding("o_direct", "warning", f"refused by {where}", _WHY_DIRECT, remedy)


def _ring(machine: Machine, trial: Trial) -> Finding:
    if trial.ring == "":
        return Finding("io_uring", "ok", f"works; {_lockable(machine)}", _WHY_RING)
    disabled = machine.tree.number("proc/sys/kernel/io_uring_disabled")
    if trial.ring is None:
        if not disabled:
            seen = "not tried: it is used with O_DIRECT only"
            return Finding("io_uring", "note", seen, _WHY_RING, "see o_direct")
        seen = "not tried"
    else:
        seen = trial.ring
    return Finding("io_uring", "note", seen, _WHY_RING, _ring_remedy(machine, disabled, seen))


def _lockable(machine: Machine) -> str:
    """How much memory register_buffers may pin."""
    limits = re.search(
        r"^Max locked memory +(\S+)", machine.tree.text("proc/self/limits") or "", re.M
    )
    held = machine.tree.fields("proc/self/status").get("CapEff", "0")
    if int(held, 16) >> _CAP_IPC_LOCK & 1 or (limits and limits[1] == "unlimited"):
        return "registered buffers: no limit"
    if limits is None or not limits[1].isdigit():
        return "registered buffers: limit unknown"
    return f"registered buffers: at most {format_bytes(int(limits[1]))} (ulimit -l)"


def _ring_remedy(machine: Machine, disabled: int | None, seen: str) -> str:
    if "not built in" in seen:
        return "sudo apt install liburing-dev, then install adapmoe again"
    if disabled:
        return f"kernel.io_uring_disabled is {disabled}: sudo sysctl kernel.io_uring_disabled=0"
    if machine.tree.fields("proc/self/status").get("Seccomp") == _SECCOMP:
        return (
            "a seccomp filter forbids it: docker run --security-opt seccomp=PROFILE with "
            "io_uring_setup, io_uring_enter and io_uring_register allowed"
        )
    return "a kernel built with CONFIG_IO_URING: zgrep IO_URING /proc/config.gz"


_TOPIC = "queue depth"
_WHY_DEPTH = "too few reads leave a disk idle; of too many the one that is waited for comes late"


def try_depths(pack: Path) -> DiskProbe | str:
    """Read bursts from a pack that can be opened; why not, where they cannot be read."""
    try:
        return measure_disk(Manifest.read(pack).experts.all_tiles(pack))
    except AdapmoeError as error:
        return str(error)


def examine_depths(pack: Path, trial: DiskProbe | str) -> Finding:
    """What `trial` gave; it is remembered, so that opening this pack uses it."""
    if isinstance(trial, str):
        return Finding(_TOPIC, "warning", trial, _WHY_DEPTH, "check the disk")
    best = trial.best
    if best is None:
        seen = "the disk is too slow to compare depths in a second; 4 reads at a time are used"
        return Finding(_TOPIC, "note", seen, _WHY_DEPTH, "keep packs on NVMe")
    default = trial.speeds[0]
    size = f" of {best.request_bytes >> 10} KiB" if best.request_bytes else ""
    seen = f"{best.read_depth} reads{size} at a time by {trial.reader}: {_speed(best.bytes_per_s)}"
    if best is not default:
        seen += f", where the default of {default.read_depth} has {_speed(default.bytes_per_s)}"
    if not best.direct:
        return Finding(
            _TOPIC, "note", f"{seen}; through the page cache", _WHY_DEPTH, "see o_direct"
        )
    if remember(pack, trial) is None:
        remedy = "make ~/.cache/adapmoe, or $XDG_CACHE_HOME/adapmoe, a folder that can be written"
        return Finding(_TOPIC, "note", f"{seen}; it cannot be remembered", _WHY_DEPTH, remedy)
    return Finding(_TOPIC, "ok", f"{seen}; remembered for this pack", _WHY_DEPTH)


def _speed(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.2f} GB/s"
