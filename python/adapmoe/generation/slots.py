# SPDX-License-Identifier: Apache-2.0
"""The `max_sequences` slots for KV caches: who holds one and who waits for one."""

import threading
import weakref
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Protocol

from adapmoe.errors import AdapmoeError, ClosedError
from adapmoe.machine.process import OpenedIn


class Closable(Protocol):
    """What occupies a slot: a sequence."""

    def close(self) -> None:
        """Give the slot back."""


class Slot:
    """Room for one sequence, held from `Slots.take` or `Slots.reserve` to `give_back`."""

    def __init__(self, slots: "Slots", owner: Hashable) -> None:
        """Use `Slots`."""
        self.slots = slots
        self.owner = owner
        self.occupant: weakref.ref[Closable] | None = None

    def give_back(self) -> None:
        """Free the slot, or hand it to whoever has waited longest. Twice is harmless."""
        self.slots._release(self)


class Slots:
    """Thread-safe. A slot that becomes free goes to whoever has waited longest.

    Only generations wait, and only for generations of others, because those end by themselves. A
    sequence opened by hand ends when its user likes, and waiting for a slot you hold yourself would
    deadlock, so both raise instead.
    """

    def __init__(self, total: int) -> None:
        """`total`: number of slots."""
        self._opened_in = OpenedIn()
        # Reentrant: the garbage collector may drop a sequence while this thread is in here.
        self._lock = threading.RLock()
        self._total = total
        self._held: set[Slot] = set()
        self._waiting: deque[tuple[Future[Slot], Hashable]] = deque()
        self._closed = False

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        self._opened_in.check()
        return self._free

    @property
    def _free(self) -> int:
        return self._total - len(self._held)

    def take(self, owner: Hashable = None) -> Slot:
        """Take a free slot at once; `owner`: see `reserve`, None for a sequence opened by hand.

        Raises:
            AdapmoeError: there is none.
        """
        slot = self.try_take(owner)
        if slot is None:
            raise self._all_taken()
        return slot

    def try_take(self, owner: Hashable) -> Slot | None:
        """Take a free slot if there is one."""
        self._opened_in.check()
        with self._lock:
            return self._new_slot(owner) if self._free > 0 else None

    def reserve(self, owner: Hashable, *, may_wait: bool = True) -> "Future[Slot]":
        """Ask for a slot for a generation of `owner` (a thread or a task).

        Returns:
            A future of the slot. Cancelling it leaves the queue.

        Raises:
            AdapmoeError: all slots are taken, and none of them by a generation of somebody else
                that can be waited for; or not `may_wait`.
            ClosedError: the model is closed.
        """
        self._opened_in.check()
        future: Future[Slot] = Future()
        with self._lock:
            if self._closed:
                raise _closed()
            if self._free > 0:
                future.set_result(self._new_slot(owner))
                return future
            owners = {slot.owner for slot in self._held} - {None}
            if not may_wait or not owners or owner in owners:
                raise self._all_taken()
            self._waiting.append((future, owner))
        return future

    def close(self) -> list[Closable]:
        """End every wait with ClosedError; return the sequences that are still open."""
        with self._lock:
            self._closed = True
            while self._waiting:
                future, _ = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    future.set_exception(_closed())
            found = [slot.occupant() for slot in list(self._held) if slot.occupant]
        return [sequence for sequence in found if sequence is not None]

    def _new_slot(self, owner: Hashable) -> Slot:
        slot = Slot(self, owner)
        self._held.add(slot)
        return slot

    def _release(self, slot: Slot) -> None:
        if self._opened_in.forked:
            return
        with self._lock:
            self._held.discard(slot)
            while self._waiting and self._free > 0:
                future, owner = self._waiting.popleft()
                if future.set_running_or_notify_cancel():  # else it was cancelled while it waited
                    future.set_result(self._new_slot(owner))

    def _all_taken(self) -> AdapmoeError:
        return AdapmoeError(
            f"all {self._total} sequences are in use: close one, or finish or close a stream, or "
            "open the model with a larger max_sequences"
        )


def _closed() -> ClosedError:
    return ClosedError("the model was closed")
