# SPDX-License-Identifier: Apache-2.0
"""Watts, joules and throttling, from whatever this machine measures."""

import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapmoe.machine.procfs import KernelTree

_LABELS = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label"
_LABEL = re.compile(r"(.*)/in(\d+)_label")
_TOTAL = "VDD_IN"  # the whole module, where it is measured
_WITHIN = {"VDDQ_VDD2_1V8AO"}  # fed from VIN_SYS_5V0, which is counted


class Rails:
    """The rails whose sum is the module's power. Without VDD_IN (AGX Orin): all that are labelled.

    Each is a voltage in mV and a current in mA.
    """

    def __init__(self, tree: KernelTree, files: dict[str, tuple[str, str]]) -> None:
        """`files`: {label: (file of the voltage, file of the current)}; at least one."""
        self._tree = tree
        self._files = files

    @classmethod
    def find(cls, tree: KernelTree) -> "Rails | None":
        """None where there is no rail that can be read."""
        files = {}
        for path in tree.glob(_LABELS):
            label, match = tree.text(path), _LABEL.fullmatch(path)
            if not label or match is None or label == "NC" or label in _WITHIN:
                continue
            folder, number = match[1], match[2]
            voltage, current = f"{folder}/in{number}_input", f"{folder}/curr{number}_input"
            # Shunt voltages have a label too, but no current.
            if tree.number(voltage) is not None and tree.number(current) is not None:
                files[label] = (voltage, current)
        if _TOTAL in files:
            files = {_TOTAL: files[_TOTAL]}
        return cls(tree, files) if files else None

    @property
    def name(self) -> str:
        """What is measured."""
        return f"INA3221 {' + '.join(sorted(self._files))}"

    def watts(self) -> float | None:
        """The sum now; None if a rail has vanished."""
        total = 0
        for voltage_file, current_file in self._files.values():
            voltage, current = self._tree.number(voltage_file), self._tree.number(current_file)
            if voltage is None or current is None:
                return None
            total += voltage * current
        return total / 1e6


_CLASS = "sys/class/powercap"
_DOMAIN = re.compile(r"intel-rapl:\d+(:\d+)?")  # intel-rapl-mmio repeats the package
# "core" and "uncore" are inside the package; "psys" is the platform, and contains it.
_COUNTED = re.compile(r"package-\d+|dram")


def counters(tree: KernelTree) -> dict[str, str]:
    """{folder: name} of the packages and their memory, whether they may be read or not."""
    folders = [f"{_CLASS}/{name}" for name in tree.names(_CLASS) if _DOMAIN.fullmatch(name)]
    names = {folder: tree.text(f"{folder}/name") or "" for folder in folders}
    return {folder: name for folder, name in names.items() if _COUNTED.fullmatch(name)}


class Rapl:
    """Adds up what the counters advance. They wrap, and must be read more often than that."""

    def __init__(self, tree: KernelTree, folders: dict[str, str], last: dict[str, int]) -> None:
        """Use `find`."""
        self._tree = tree
        self._folders = folders
        self._last = last
        self._range = {f: tree.number(f"{f}/max_energy_range_uj") or 0 for f in folders}
        self._microjoules = 0

    @classmethod
    def find(cls, tree: KernelTree) -> "Rapl | None":
        """None where there are no counters, or only root may read them."""
        folders = counters(tree)
        last = {f: value for f in folders if (value := tree.number(f"{f}/energy_uj")) is not None}
        return cls(tree, folders, last) if folders and last.keys() == folders.keys() else None

    @property
    def name(self) -> str:
        """What is measured."""
        return f"RAPL {' + '.join(sorted(self._folders.values()))}"

    def joules(self) -> float | None:
        """Since `find`; None if a counter has vanished or is not to be understood."""
        for folder in self._folders:
            now = self._tree.number(f"{folder}/energy_uj")
            if now is None:
                return None
            if now < self._last[folder]:
                if not self._range[folder]:
                    return None
                self._microjoules += self._range[folder]
            self._microjoules += now - self._last[folder]
            self._last[folder] = now
        return self._microjoules / 1e6


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


_FRESH_S = 0.02  # a younger reading is not repeated: what a span loses by it, the next one gains
_PERIOD_S = 0.2  # between readings of the thread
_IDLE_READINGS = 5  # that it waits for the next span
_STALE_S = 1.0  # power that was read longer ago says nothing about the time since


@dataclass
class Span:
    """A span of time, filled in when it ends.

    Attributes:
        seconds: wall time.
        joules: of the machine in that time; None where it is not measured.
    """

    seconds: float = 0.0
    joules: float | None = None


class PowerMeter:
    """Thread-safe. Where the machine has neither rails nor counters, spans have only seconds."""

    def __init__(
        self, tree: KernelTree | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`tree`: where to look; None: this machine. `clock`: seconds."""
        tree = tree or KernelTree()
        self._clock = clock
        self._rails = Rails.find(tree)
        self._rapl = None if self._rails else Rapl.find(tree)
        self._throttle = Throttle(tree)
        self._lock = threading.Lock()
        self._joules: float | None = 0.0  # None once a rail or counter has vanished
        self._watts: float | None = None
        self._read_at = float("-inf")
        self._spans = 0
        self._idle = 0
        self._thread: threading.Thread | None = None
        _meters.add(self)

    @property
    def source(self) -> str | None:
        """What is measured, such as "RAPL package-0"; None: nothing."""
        if self._rails:
            return self._rails.name
        return self._rapl.name if self._rapl else None

    @contextmanager
    def span(self) -> Iterator[Span]:
        """Measure what is done inside; also when it raises."""
        measured = Span()
        began, before = self._clock(), self._change(1)
        try:
            yield measured
        finally:
            after = self._change(-1)
            measured.seconds = self._clock() - began
            if before is not None and after is not None:
                measured.joules = after - before

    def throttle_counts(self) -> dict[str, int] | None:
        """To be passed to `throttled_since` later; None where the machine says nothing."""
        if not self._throttle.available:
            return None
        with self._lock:
            return self._throttle.counts()

    def throttled_since(self, before: dict[str, int] | None) -> list[str] | None:
        """What has slowed the machine down since; None where it does not say."""
        now = self.throttle_counts()
        return None if before is None or now is None else risen(before, now)

    def _change(self, spans: int) -> float | None:
        """Begin (1) or end (-1) a span. Returns the joules so far, None where not measured."""
        if self.source is None:
            return None
        with self._lock:
            if self._spans == 0 and self._clock() - self._read_at > _STALE_S:
                self._watts = None  # nobody looked since; the pause is not counted
            self._spans += spans
            if self._rails and self._joules is not None and self._thread is None:
                self._thread = threading.Thread(target=self._keep_reading, daemon=True)
                self._thread.start()
            return self._read()

    def _read(self) -> float | None:
        """Joules so far. Needs the lock."""
        now = self._clock()
        if self._joules is None or now - self._read_at < _FRESH_S:
            return self._joules
        if self._rapl:
            self._joules = self._rapl.joules()
        elif self._rails:
            self._add_power(self._rails.watts(), now - self._read_at)
        self._read_at = now
        return self._joules

    def _add_power(self, watts: float | None, seconds: float) -> None:
        if watts is None or self._joules is None:
            self._joules = None  # no figure is better than a wrong one
        elif self._watts is not None:
            self._joules += (self._watts + watts) / 2 * seconds
        self._watts = watts

    def _renew(self) -> None:
        """In a fork: nobody holds the lock, and the thread is gone."""
        self._lock = threading.Lock()
        self._thread = None
        self._spans = 0

    def _keep_reading(self) -> None:
        while self._read_once():
            time.sleep(_PERIOD_S)

    def _read_once(self) -> bool:
        """Whether the thread should go on."""
        with self._lock:
            self._idle = 0 if self._spans else self._idle + 1
            if self._spans:
                self._read()
                self._throttle.counts()
            if self._joules is not None and self._idle <= _IDLE_READINGS:
                return True
            self._thread = None
            return False


_meters: "weakref.WeakSet[PowerMeter]" = weakref.WeakSet()


def _renew_all() -> None:
    for meter in list(_meters):
        meter._renew()


os.register_at_fork(after_in_child=_renew_all)
