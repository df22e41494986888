# SPDX-License-Identifier: Apache-2.0
"""How experts are read here, tried in the pack's own folder: O_DIRECT and io_uring."""

import re
from dataclasses import dataclass
from pathlib import Path

from adapmoe.doctor.core import io_uring_problem
from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine
from adapmoe.doctor.mounts import mount_of
from adapmoe.doctor.read_probe import probe_file, reads_direct
from adapmoe.errors import PackError
from adapmoe.units import format_bytes

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
