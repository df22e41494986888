# SPDX-License-Identifier: Apache-2.0
"""Whether heat or current made the machine slow down."""

import re

from adapmoe.kernel_tree import KernelTree

# Cooling devices that slow something down, unlike fans.
_SLOWING = re.compile(
    r"(thermal-)?(cpufreq|devfreq)-.*|.*-throttle-alert|Processor|intel_powerclamp"
)
_COUNTERS = (
    "sys/class/hwmon/hwmon*/oc*_event_cnt",  # Jetson: over-current and under-voltage
    "sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count",  # x86
)
_OVER_CURRENT = re.compile(r"oc\d+_event_cnt")


class Throttle:
    """Counts how often each reason was seen. A count that has risen since is a reason."""

    def __init__(self, tree: KernelTree) -> None:
        """Finds what there is to look at."""
        self._tree = tree
        self._devices = {
            folder: kind
            for folder in tree.glob("sys/class/thermal/cooling_device*")
            if (kind := tree.text(f"{folder}/type")) and _SLOWING.fullmatch(kind)
        }
        self._counters = [path for pattern in _COUNTERS for path in tree.glob(pattern)]
        self._seen = dict.fromkeys(self._devices.values(), 0)

    @property
    def available(self) -> bool:
        """Whether the machine says anything about it."""
        return bool(self._devices or self._counters)

    def active(self) -> list[str]:
        """Cooling devices that slow something down now."""
        states = {kind: self._tree.number(f"{f}/cur_state") for f, kind in self._devices.items()}
        return sorted(kind for kind, state in states.items() if state and state > 0)

    def counts(self) -> dict[str, int]:
        """{reason: count}; those of cooling devices rise by looking while they are active."""
        for kind in self.active():
            self._seen[kind] += 1
        found = dict(self._seen)
        for path in self._counters:
            reason = _reason(path)
            found[reason] = found.get(reason, 0) + (self._tree.number(path) or 0)
        return found


def _reason(path: str) -> str:
    name = path.rsplit("/", 1)[1]
    if _OVER_CURRENT.fullmatch(name):
        return f"over-current ({name.split('_')[0]})"
    return f"cpu {name.split('_')[0]} heat"


def risen(before: dict[str, int], now: dict[str, int]) -> list[str]:
    """Reasons whose count is higher now, sorted."""
    return sorted(reason for reason, count in now.items() if count > before.get(reason, 0))
