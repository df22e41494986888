# SPDX-License-Identifier: Apache-2.0
"""Memory of the machine, and how much of it the Jetson's GPU driver (NvMap) holds."""

import re

from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine
from adapmoe.units import format_bytes

_WHY = "experts stay resident in what is available; every one that does not fit is read again"
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
        return Finding("memory", "note", "/proc/meminfo cannot be read", _WHY, "mount /proc")
    seen = f"{format_bytes(available)} of {format_bytes(total)} available"
    if available >= _LITTLE:
        return Finding("memory", "ok", seen, _WHY)
    remedy = "end other programs"
    if machine.is_jetson:
        remedy += "; without a desktop: sudo systemctl set-default multi-user.target, then reboot"
    return Finding("memory", "warning", seen, _WHY, remedy)


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
