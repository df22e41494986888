# SPDX-License-Identifier: Apache-2.0
"""The Jetson's power mode: nvpmodel caps clocks, and how many cores are on."""

import re

from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine

_WHY = "it caps the clocks of CPU, GPU and memory, and switches cores off"
_MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
_STATUS = re.compile(r"pmode:(\d+)")
_QUERY = re.compile(r"^NV Power Mode:\s*(\S+)", re.MULTILINE)


def power_modes(text: str) -> dict[int, str]:
    """{0: "MAXN", ...} from `/etc/nvpmodel.conf`."""
    return {int(number): name for number, name in _MODE.findall(text)}


def fastest_mode(modes: dict[int, str]) -> int | None:
    """The mode without a cap, MAXN or MAXN_SUPER; numbers say nothing about speed."""
    unlimited = [number for number, name in modes.items() if name.startswith("MAXN")]
    return max(unlimited, key=lambda number: len(modes[number]), default=None)


def current_mode(machine: Machine, modes: dict[int, str]) -> str | None:
    """Its name: from the file that nvpmodel keeps, else from nvpmodel itself."""
    match = _STATUS.search(machine.tree.text("var/lib/nvpmodel/status") or "")
    if match:
        return modes.get(int(match[1]), f"number {int(match[1])}")
    match = _QUERY.search(machine.run(["nvpmodel", "-q"]) or "")
    return match[1] if match else None


def examine_power_mode(machine: Machine) -> list[Finding]:
    """One finding on a Jetson, none elsewhere."""
    if not machine.is_jetson:
        return []
    modes = power_modes(machine.tree.text("etc/nvpmodel.conf") or "")
    mode, best = current_mode(machine, modes), fastest_mode(modes)
    if mode is None:
        return [Finding("power_mode", "note", "unknown", _WHY, "on the host: sudo nvpmodel -q")]
    if best is None or mode == modes[best]:
        return [Finding("power_mode", "ok", mode, _WHY)]
    remedy = f"sudo nvpmodel -m {best} sets {modes[best]}, where power and cooling allow it"
    return [Finding("power_mode", "warning", mode, _WHY, remedy)]
