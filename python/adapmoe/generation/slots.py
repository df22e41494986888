# SPDX-License-Identifier: Apache-2.0
"""The `max_sequences` places for KV caches: who has one and who waits for one."""

import threading
import weakref
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from adapmoe.errors import AdapmoeError, ClosedError
from adapmoe.opened_in import OpenedIn

if TYPE_CHECKING:
    from adapmoe.generation.sequence import Sequence


class Place:
    """Room for one sequence, held from `Places.take` or `Places.reserve` to `give_back`."""

    def __init__(self, places: "Places", owner: Hashable) -> None:
        """Use `Places`."""
        self.places = places
        self.owner = owner
        self.sequence: weakref.ref[Sequence] | None = None

    def give_back(self) -> None:
        """Free the place, or hand it to who has waited longest. Twice is harmless."""
        self.places._release(self)


class Places:
    """Thread-safe. A place freed while somebody waits goes to who has waited longest.

    Waiting is for generations only, and only for those of others, because they come to an end by
    themselves: a sequence opened by hand ends when its user likes, and who waits for a place that
    they hold themselves waits for ever.
    """

    def __init__(self, total: int) -> None:
        """`total`: number of places."""
        self._opened_in = OpenedIn()
        # Reentrant: the garbage collector may drop a sequence while this thread is in here.
        self._lock = threading.RLock()
        self._total = total
        self._held: set[Place] = set()
        self._waiting: deque[tuple[Future[Place], Hashable]] = deque()
        self._closed = False

    @property
    def free(self) -> int:
        """Places that nobody holds."""
        return self._total - len(self._held)

    def take(self, owner: Hashable = None) -> Place:
        """Take a free place at once; `owner`: see `reserve`, None for a sequence opened by hand.

        Raises:
            AdapmoeError: there is none.
        """
        place = self.try_take(owner)
        if place is None:
            raise self._all_taken()
        return place

    def try_take(self, owner: Hashable) -> Place | None:
        """Take a free place if there is one."""
        self._opened_in.check()
        with self._lock:
            return self._new_place(owner) if self.free > 0 else None

    def reserve(self, owner: Hashable, *, may_wait: bool = True) -> "Future[Place]":
        """Ask for a place for a generation of `owner` (a thread or a task).

        Returns:
            A future of the place. Cancelling it leaves the queue.

        Raises:
            AdapmoeError: all places are taken, and none of them by a generation of somebody else
                that can be waited for; or not `may_wait`.
            ClosedError: the model is closed.
        """
        self._opened_in.check()
        future: Future[Place] = Future()
        with self._lock:
            if self._closed:
                raise _closed()
            if self.free > 0:
                future.set_result(self._new_place(owner))
                return future
            owners = {place.owner for place in self._held} - {None}
            if not may_wait or not owners or owner in owners:
                raise self._all_taken()
            self._waiting.append((future, owner))
        return future

    def close(self) -> list["Sequence"]:
        """Turn all who wait away with ClosedError; return the sequences that are still open."""
        with self._lock:
            self._closed = True
            while self._waiting:
                future, _ = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    future.set_exception(_closed())
            found = [place.sequence() for place in list(self._held) if place.sequence]
        return [sequence for sequence in found if sequence is not None]

    def _new_place(self, owner: Hashable) -> Place:
        place = Place(self, owner)
        self._held.add(place)
        return place

    def _release(self, place: Place) -> None:
        if self._opened_in.forked:
            return
        with self._lock:
            self._held.discard(place)
            while self._waiting and self.free > 0:
                future, owner = self._waiting.popleft()
                if future.set_running_or_notify_cancel():  # else: who waited has given up
                    future.set_result(self._new_place(owner))

    def _all_taken(self) -> AdapmoeError:
        return AdapmoeError(
            f"all {self._total} sequences are in use: close one, or finish or close a stream, or "
            "open the model with a larger max_sequences"
        )


def _closed() -> ClosedError:
    return ClosedError("the model was closed")
