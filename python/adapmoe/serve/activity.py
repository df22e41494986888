# SPDX-License-Identifier: Apache-2.0
"""What the machine does at the moment, as the page shows it: one JSON object."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe.llm import LLM
from adapmoe.serve.metrics import Counts, Metrics
from adapmoe.serve.neighbour import NeighbourFacts
from adapmoe.serve.sse import event

TICK_S = 0.1  # between two looks at the machine
WINDOW_S = 2.0  # over which rates are taken

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_PARTS = ("expert", "kv", "dense", "scratch")  # of the memory split
_CORE_SUMS = ("expert_hits", "experts_used", "bytes_read", "stall_s", "compute_s")


@dataclass(frozen=True)
class Sums:
    """What only ever grows, at one moment: rates are differences of two of these.

    Attributes:
        at: when, in seconds of any clock.
        tokens: generated.
        steps: of the model.
        joules: None where the machine does not measure them.
        measured_s: the time in which they were measured.
    """

    at: float
    tokens: int = 0
    steps: int = 0
    joules: float | None = None
    measured_s: float = 0.0
    expert_hits: int = 0
    experts_used: int = 0
    bytes_read: int = 0
    stall_s: float = 0.0
    compute_s: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """The machine at one moment.

    Attributes:
        states: flags of each expert, uint8 `[layers, experts]`; see `LLM.expert_states`.
        memory: in bytes, by what it is for.
        queue: answers, and how many there may be.
    """

    sums: Sums
    states: NDArray[np.uint8]
    memory: dict[str, Any]
    queue: dict[str, int]


def shown(before: Sums, now: Snapshot) -> dict[str, Any]:
    """What the page is told: the snapshot, and rates since `before`.

    A share of nothing is None, and so is energy that is not measured.
    """
    sums = now.sums
    layers, experts = now.states.shape
    tokens = sums.tokens - before.tokens
    stall_s = sums.stall_s - before.stall_s
    joules = None
    if sums.joules is not None and before.joules is not None:
        joules = sums.joules - before.joules
    seconds = sums.at - before.at
    return {
        "layers": layers,
        "experts": experts,
        "map": _DIGITS[now.states & 15].tobytes().decode(),
        "tokens": sums.tokens,
        "tokens_per_s": _ratio(tokens, seconds) or 0.0,
        "steps": sums.steps,
        "hit_rate": _ratio(
            sums.expert_hits - before.expert_hits, sums.experts_used - before.experts_used
        ),
        "read_bytes": sums.bytes_read,
        "read_bytes_per_s": _ratio(sums.bytes_read - before.bytes_read, seconds) or 0.0,
        "stall_share": _ratio(stall_s, stall_s + sums.compute_s - before.compute_s),
        "memory": now.memory,
        "queue": now.queue,
        "joules_per_token": _ratio(joules, tokens),
        "watts": _ratio(joules, sums.measured_s - before.measured_s),
    }


def _ratio(part: float | None, whole: float) -> float | None:
    return None if part is None or whole <= 0 else _rounded(part / whole)


def _rounded(value: float) -> float:
    """With four digits: more would only tell apart what looks the same."""
    return float(f"{value:.4g}")


class Activity:
    """Looks at an open model and its engine, and keeps what rates need."""

    def __init__(
        self,
        llm: LLM,
        metrics: Metrics,
        facts: Callable[[], NeighbourFacts | None],
        *,
        max_queue: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take where to look.

        Args:
            llm: as it was opened: the ceiling that it has now is the most it can get back.
            metrics: count what the engine does.
            facts: of the memory beside the server; None where nobody watches that.
            max_queue: most answers that may wait.
            clock: seconds.
        """
        self._llm = llm
        self._counts = metrics.counts
        self._facts = facts
        self._max_queue = max_queue
        self._clock = clock
        self._most = llm.memory_split.memory_bytes
        self._past: deque[Sums] = deque()  # those of the window, the oldest first

    def event(self) -> bytes:
        """A server-sent event with what the page is told now.

        Raises:
            ClosedError: the model has been closed.
        """
        now = self.look()
        begins = now.sums.at - WINDOW_S
        if self._past and self._past[-1].at < begins:
            self._past.clear()  # nobody looked meanwhile
        self._past.append(now.sums)
        while len(self._past) > 2 and self._past[1].at <= begins:
            self._past.popleft()
        return event(shown(self._past[0], now))

    def look(self) -> Snapshot:
        """The machine now. Waits for no step.

        Raises:
            ClosedError: the model has been closed.
        """
        counts, core, split = self._counts, self._llm.stats, self._llm.memory_split
        sums = Sums(
            at=self._clock(),
            tokens=counts.generated,
            steps=counts.steps,
            joules=None if self._llm.power.source is None else counts.joules,
            measured_s=counts.measured_s,
            **{name: getattr(core, name) for name in _CORE_SUMS},
        )
        memory = {part: getattr(split, f"{part}_bytes") for part in _PARTS}
        neighbour = _neighbour(self._facts())
        memory |= {"ceiling": split.memory_bytes, "most": self._most} | neighbour
        return Snapshot(sums, self._llm.expert_states(), memory, self._queue(counts))

    def _queue(self, counts: Counts) -> dict[str, int]:
        return {
            "running": counts.running,
            "waiting": counts.waiting,
            "slots": self._llm.max_sequences,
            "max_queue": self._max_queue,
        }


def _neighbour(facts: NeighbourFacts | None) -> dict[str, Any]:
    """Nothing is known of them: None."""
    return {
        "room": None if facts is None else int(_rounded(facts.room_bytes)),
        "given_back": None if facts is None else facts.given_back_bytes,
        "pressure": None if facts is None else _rounded(facts.pressure),
    }
