# SPDX-License-Identifier: Apache-2.0
"""The memory limit of the cgroups that this process is in, versions 1 and 2."""

from adapmoe.doctor.core import memory_limits
from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine
from adapmoe.units import format_bytes

_WHY = 'memory="auto" stays below it, and the kernel ends or stalls a process that exceeds it'


def examine_cgroup(machine: Machine) -> list[Finding]:
    """One finding: the smallest limit below the machine's memory, a parent's included."""
    tree = machine.tree
    if tree.text("proc/self/cgroup") is None:
        return [Finding("cgroup", "note", "/proc/self/cgroup cannot be read", _WHY, "mount /proc")]
    limits = memory_limits(tree.root)
    if limits is None:
        seen = "not looked at, because the compiled core cannot be loaded"
        return [Finding("cgroup", "note", seen, _WHY, "see build")]
    total = tree.meminfo("MemTotal")
    bound = [found for found in limits if total is None or found[1] < total]
    if not bound:
        return [Finding("cgroup", "ok", "no memory limit", _WHY)]
    file, limit, _ = min(bound, key=lambda found: found[1])
    room = min(room for _, _, room in bound)
    seen = (
        f"memory limited to {format_bytes(limit)} by {file.removeprefix(tree.root)}; "
        f"{format_bytes(room)} can still be taken"
    )
    remedy = (
        "raise it if more experts shall be resident: MemoryMax= and MemoryHigh=, "
        "or docker run --memory"
    )
    return [Finding("cgroup", "note", seen, _WHY, remedy)]
