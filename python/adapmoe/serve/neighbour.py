# SPDX-License-Identifier: Apache-2.0
"""A good neighbour in memory: gives experts' memory back when it is short, and takes it again."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from adapmoe.errors import BudgetError, ClosedError
from adapmoe.llm import LLM
from adapmoe.machine.pressure import MemoryState, MemoryWatch
from adapmoe.units import format_bytes

_log = logging.getLogger("adapmoe.serve")

PERIOD_S = 0.2  # between two looks, each of which takes a millisecond of a core
QUIET_S = 10.0  # that memory must have been plentiful before any is taken again
TAKING_S = 2.0  # between two steps of taking it again
_STEP = 16  # one step is this part of what may be given back
_STALLED = 0.1  # share of time that is pressure
_PLENTY = 4  # times what is to stay free: then others wait for something else than memory


@dataclass(frozen=True)
class Ceiling:
    """The memory ceiling on its way down and up again.

    Attributes:
        bytes: it is now.
        least, most: it may be: the floor of the model, and what was asked for.
        short_at: when memory was last short, seconds.
        moved_at: when the ceiling was last changed, seconds.
    """

    bytes: int
    least: int
    most: int
    short_at: float = -QUIET_S
    moved_at: float = -QUIET_S

    @property
    def step(self) -> int:
        """How much is taken again at a time, and given back while others only wait."""
        return max((self.most - self.least) // _STEP, 1)


def next_ceiling(ceiling: Ceiling, state: MemoryState, keep_free: int, now: float) -> Ceiling:
    """What to do about the memory that there is.

    What is missing is given back at once. Where tasks wait for memory although enough is there to
    stay free, a step is given back per second, unless there is plenty. Once memory has been
    plentiful for QUIET_S, a step is taken again every TAKING_S, and never so much that it would be
    short again: the step's own size stays free besides.

    Args:
        ceiling: the present one.
        state: of the memory.
        keep_free: bytes that are to stay free.
        now: seconds.
    """
    missing = max(-state.spare_bytes, 0)
    waiting = state.stalled > _STALLED and state.spare_bytes < (_PLENTY - 1) * keep_free
    if missing or waiting:
        ceiling = replace(ceiling, short_at=now)
        if not missing and now - ceiling.moved_at < 1.0:
            return ceiling
        wanted = max(ceiling.bytes - max(missing, ceiling.step if waiting else 0), ceiling.least)
    elif now - ceiling.short_at < QUIET_S or now - ceiling.moved_at < TAKING_S:
        return ceiling
    else:
        more = min(ceiling.step, state.spare_bytes - ceiling.step)
        wanted = min(ceiling.bytes + max(more, 0), ceiling.most)
    if wanted == ceiling.bytes:
        return ceiling
    return replace(ceiling, bytes=wanted, moved_at=now)


@dataclass(frozen=True)
class NeighbourFacts:
    """What the neighbour knows and did.

    Attributes:
        room_bytes: how much more memory this process could take now.
        given_back_bytes: how far the ceiling is below what was asked for.
        pressure: the share of time that some task waited for memory lately, 0 to 1.
    """

    room_bytes: int
    given_back_bytes: int
    pressure: float


class Neighbour:
    """Watches the memory in a thread of its own, and changes the ceiling of an open model."""

    def __init__(
        self,
        llm: LLM,
        watch: MemoryWatch,
        keep_free: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is watched before `start`.

        Args:
            llm: the open model.
            watch: looks at the memory.
            keep_free: bytes that are to stay free.
            clock: seconds.
        """
        split = llm.memory_split
        self._llm = llm
        self._watch = watch
        self._keep_free = keep_free
        self._clock = clock
        self._ceiling = Ceiling(split.memory_bytes, split.floor_bytes, split.memory_bytes)
        self._facts = NeighbourFacts(0, 0, 0.0)
        self._given_back = False  # and somebody was told
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="adapmoe-neighbour", daemon=True)

    @property
    def facts(self) -> NeighbourFacts:
        """As of the latest look."""
        return self._facts

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; the ceiling stays as it is."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_S):
            try:
                self.look()
            except ClosedError:
                return
            except Exception:  # a fault of ours must not end the watch
                _log.exception("looking after the memory failed")

    def look(self) -> None:
        """Look at the memory once, and change the ceiling if it should be another."""
        state = self._watch.look()
        wanted = next_ceiling(self._ceiling, state, self._keep_free, self._clock())
        if wanted.bytes != self._ceiling.bytes:
            wanted = self._changed(wanted)
        self._ceiling = wanted
        given_back = wanted.most - wanted.bytes
        self._facts = NeighbourFacts(state.room_bytes, given_back, state.stalled)

    def _changed(self, wanted: Ceiling) -> Ceiling:
        """Change the ceiling; where it then is."""
        try:
            self._llm.set_memory(wanted.bytes)  # returns after the step that runs
        except BudgetError:  # others were quicker to take it
            return replace(self._ceiling, moved_at=wanted.moved_at)
        if wanted.bytes < self._ceiling.bytes and not self._given_back:
            self._given_back = True
            _log.warning(
                "memory is short, on this machine or in a control group: the ceiling of %s goes "
                "down, and up again once there is room",
                format_bytes(wanted.most),
            )
        elif wanted.bytes == wanted.most:
            self._given_back = False
            _log.warning("the memory ceiling is %s again", format_bytes(wanted.most))
        return wanted
