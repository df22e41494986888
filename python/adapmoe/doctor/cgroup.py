# SPDX-License-Identifier: Apache-2.0
"""The memory limit of the cgroups that this process is in, versions 1 and 2."""

from adapmoe.cgroup import control_files
from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine
from adapmoe.kernel_tree import KernelTree
from adapmoe.units import format_bytes

_WHY = 'memory="auto" stays below it, and the kernel ends a process that exceeds it'


def memory_limit(tree: KernelTree) -> tuple[int, str] | None:
    """The smallest limit of this process's cgroups and their parents, and the file that has it.

    None where nothing limits it below the machine's memory.
    """
    files = control_files(tree, "memory", "memory.max", "memory.limit_in_bytes")
    found = [(limit, path) for path in files if (limit := tree.number(path))]
    total = tree.meminfo("MemTotal")
    bound = [pair for pair in found if total is None or pair[0] < total]
    return min(bound) if bound else None


def examine_cgroup(machine: Machine) -> list[Finding]:
    """One finding."""
    if machine.tree.text("proc/self/cgroup") is None:
        return [Finding("cgroup", "note", "/proc/self/cgroup cannot be read", _WHY, "mount /proc")]
    found = memory_limit(machine.tree)
    if found is None:
        return [Finding("cgroup", "ok", "no memory limit", _WHY)]
    limit, path = found
    seen = f"memory limited to {format_bytes(limit)} by /{path}"
    remedy = "raise it if more experts shall be resident: MemoryMax=, or docker run --memory"
    return [Finding("cgroup", "note", seen, _WHY, remedy)]
