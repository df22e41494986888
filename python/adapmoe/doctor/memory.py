# SPDX-License-Identifier: Apache-2.0
"""Memory: control groups, swap, what the GPU may map."""

import re

from adapmoe.doctor.build import memory_limits
from adapmoe.doctor.machine import Finding, Machine
from adapmoe.units import format_bytes

_WHY_LIMIT = 'memory="auto" stays below it, and the kernel ends or stalls a process that exceeds it'


def examine_cgroup(machine: Machine) -> list[Finding]:
    """One finding: the smallest limit below the machine's memory, a parent's included."""
    tree = machine.tree
    if tree.text("proc/self/cgroup") is None:
        return [
            Finding("cgroup", "note", "/proc/self/cgroup cannot be read", _WHY_LIMIT, "mount /proc")
        ]
    limits = memory_limits(tree.root)
    if limits is None:
        seen = "not looked at, because the compiled core cannot be loaded"
        return [Finding("cgroup", "note", seen, _WHY_LIMIT, "see build")]
    total = tree.meminfo("MemTotal")
    bound = [found for found in limits if total is None or found[1] < total]
    if not bound:
        return [Finding("cgroup", "ok", "no memory limit", _WHY_LIMIT)]
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
    return [Finding("cgroup", "note", seen, _WHY_LIMIT, remedy)]


_WHY_SWAP = (
    "quantized weights hardly compress, and reading an expert from the pack again is quicker than "
    "swapping it out and in"
)


def examine_swap(machine: Machine) -> list[Finding]:
    """One finding for all swap there is."""
    text = machine.tree.text("proc/swaps")
    if text is None and machine.tree.meminfo("SwapTotal") != 0:
        return [Finding("swap", "note", "/proc/swaps cannot be read", _WHY_SWAP, "mount /proc")]
    rows = [line.split() for line in (text or "").splitlines()[1:]]
    areas = {
        row[0]: (int(row[2]) * 1024, int(row[3]) * 1024)
        for row in rows
        if len(row) >= 4 and row[2].isdigit() and row[3].isdigit()
    }
    if not areas:
        return [Finding("swap", "ok", "none", _WHY_SWAP)]
    zram = [name for name in areas if "zram" in name]
    size, used = (sum(area[i] for area in areas.values()) for i in (0, 1))
    kind = f"{len(zram)} zram of {len(areas)} areas" if zram else f"{len(areas)} on disk"
    seen = f"{format_bytes(size)}, {format_bytes(used)} of it used; {kind}"
    if not zram:
        if used == 0:
            return [Finding("swap", "ok", seen, _WHY_SWAP)]
        return [Finding("swap", "note", seen, _WHY_SWAP, "lower `memory` until swap stays unused")]
    remedy = "turn it off: sudo swapoff /dev/zram*"
    if machine.is_jetson:
        remedy = "sudo systemctl disable --now nvzramconfig, then reboot"
    return [Finding("swap", "warning" if machine.is_jetson else "note", seen, _WHY_SWAP, remedy)]


_WHY_MEMORY = (
    "experts stay resident in what is available; every one that does not fit is read again"
)
_WHY_NVMAP = "CPU and GPU share memory, and no cgroup counts what NvMap takes of it"
_LITTLE = 4 << 30
_MUCH_OF_IT = 0.25
_CLIENTS = "sys/kernel/debug/nvmap/iovmm/clients"
_TOTAL = re.compile(r"^total\s+(\d+)K", re.MULTILINE)


def examine_memory(machine: Machine) -> list[Finding]:
    """Total and available; on a Jetson also NvMap."""
    findings = [_available(machine)]
    if machine.is_jetson:
        findings.append(_nvmap(machine))
    return findings


def _available(machine: Machine) -> Finding:
    total, available = (machine.tree.meminfo(name) for name in ("MemTotal", "MemAvailable"))
    if total is None or available is None:
        return Finding("memory", "note", "/proc/meminfo cannot be read", _WHY_MEMORY, "mount /proc")
    seen = f"{format_bytes(available)} of {format_bytes(total)} available"
    if available >= _LITTLE:
        return Finding("memory", "ok", seen, _WHY_MEMORY)
    remedy = "end other programs"
    if machine.is_jetson:
        remedy += "; without a desktop: sudo systemctl set-default multi-user.target, then reboot"
    return Finding("memory", "warning", seen, _WHY_MEMORY, remedy)


def nvmap_bytes(machine: Machine) -> int | None:
    """Bytes that NvMap holds: from `/proc/meminfo`, else from debugfs (root only)."""
    used = machine.tree.meminfo("NvMapMemUsed")
    if used is not None:
        return used
    match = _TOTAL.search(machine.tree.text(_CLIENTS) or "")
    return int(match[1]) * 1024 if match else None


def _nvmap(machine: Machine) -> Finding:
    used, total = nvmap_bytes(machine), machine.tree.meminfo("MemTotal")
    if used is None or total is None:
        return Finding(
            "nvmap",
            "note",
            "no NvMapMemUsed in /proc/meminfo",
            _WHY_NVMAP,
            f"look as root: sudo cat /{_CLIENTS}",
        )
    seen = f"{format_bytes(used)} in use"
    if used < _MUCH_OF_IT * total:
        return Finding("nvmap", "ok", seen, _WHY_NVMAP)
    remedy = f"see who holds it: sudo cat /{_CLIENTS}"
    return Finding("nvmap", "warning", seen, _WHY_NVMAP, remedy)
