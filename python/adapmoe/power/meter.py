# SPDX-License-Identifier: Apache-2.0
"""Energy and throttling of the whole machine over spans of time such as a decode step.

Nothing is read but around and during spans: energy counters at their ends, rails also five times a
second, in a thread that ends soon after the last span.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adapmoe.kernel_tree import KernelTree
from adapmoe.power.rails import Rails
from adapmoe.power.rapl import Rapl
from adapmoe.power.throttle import Throttle, risen

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
