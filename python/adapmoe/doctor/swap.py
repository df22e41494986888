# SPDX-License-Identifier: Apache-2.0
"""Swap: on a disk, or compressed in memory (zram)."""

from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine
from adapmoe.units import format_bytes

_WHY = (
    "quantized weights hardly compress, and reading an expert from the pack again is quicker than "
    "swapping it out and in"
)


def examine_swap(machine: Machine) -> list[Finding]:
    """One finding for all swap there is."""
    text = machine.tree.text("proc/swaps")
    if text is None and machine.tree.meminfo("SwapTotal") != 0:
        return [Finding("swap", "note", "/proc/swaps cannot be read", _WHY, "mount /proc")]
    rows = [line.split() for line in (text or "").splitlines()[1:]]
    areas = {
        row[0]: (int(row[2]) * 1024, int(row[3]) * 1024)
        for row in rows
        if len(row) >= 4 and row[2].isdigit() and row[3].isdigit()
    }
    if not areas:
        return [Finding("swap", "ok", "none", _WHY)]
    zram = [name for name in areas if "zram" in name]
    size, used = (sum(area[i] for area in areas.values()) for i in (0, 1))
    kind = f"{len(zram)} zram of {len(areas)} areas" if zram else f"{len(areas)} on disk"
    seen = f"{format_bytes(size)}, {format_bytes(used)} of it used; {kind}"
    if not zram:
        if used == 0:
            return [Finding("swap", "ok", seen, _WHY)]
        return [Finding("swap", "note", seen, _WHY, "lower `memory` until swap stays unused")]
    remedy = "turn it off: sudo swapoff /dev/zram*"
    if machine.is_jetson:
        remedy = "sudo systemctl disable --now nvzramconfig, then reboot"
    return [Finding("swap", "warning" if machine.is_jetson else "note", seen, _WHY, remedy)]
