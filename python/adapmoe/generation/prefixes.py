# SPDX-License-Identifier: Apache-2.0
"""Sequences of finished requests, kept because later prompts may begin like them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapmoe.generation.scheduler import Scheduler
from adapmoe.generation.sequence import Sequence

Ids = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Held:
    """A sequence, the tokens it holds (int32 `[n]`), and for whom: prefixes are not shared further.

    `running`: its own request still needs it.
    """

    key: str
    ids: Ids
    sequence: Sequence
    running: bool = False


def common_prefix(one: Ids, other: Ids) -> int:
    """How many tokens both begin with."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if different.size else length


class Prefixes:
    """Keeps sequences while nobody else needs their slots; the least recently used goes first.

    Not thread-safe: the thread that runs the steps owns it.
    """

    def __init__(self, scheduler: Scheduler, least: int = 16) -> None:
        """Keep nothing yet.

        Args:
            scheduler: its slots are the bound.
            least: take over no fewer tokens; all prompts begin with a few that are the same.
        """
        self._scheduler = scheduler
        self._least = least
        self._kept: list[Held] = []  # least recently used first

    def __len__(self) -> int:
        """Number of sequences kept."""
        return len(self._kept)

    @property
    def has_room(self) -> bool:
        """Whether `begin` finds a slot; cheaper to ask than to try before every step."""
        return bool(self._kept) or self._scheduler.slots.free > 0

    def begin(self, key: str, prompt: Ids, running: Iterable[Held] = ()) -> Sequence | None:
        """A sequence that already holds as much of the prompt's beginning as can be had.

        At least one token of the prompt is left to compute: its logits are needed.

        Args:
            key: only what was kept, or runs, under the same key is taken over.
            prompt: int32 `[n]`, n >= 1.
            running: sequences in use, which can be copied.

        Returns:
            A sequence in a slot of its own, or None: all slots are in use.
        """
        found = [held for held in [*self._kept, *running] if held.key == key]
        shared = [common_prefix(held.ids, prompt[:-1]) for held in found]
        common = max(shared, default=0)
        if common < self._least:
            return self._scheduler.new_sequence() if self._make_room() else None
        # Of several that share as much, the one used last.
        source = found[max(at for at, length in enumerate(shared) if length == common)]
        free = self._scheduler.slots.free > 0
        if not source.running and (
            common == len(source.ids) or (not free and source is self._kept[0])
        ):
            self._kept.remove(source)
            source.sequence.truncate(common)
            return source.sequence
        if not source.running:
            self._kept.remove(source)
            self._kept.append(source)
        return source.sequence.fork(common) if self._make_room() else None

    def keep(self, key: str, ids: Ids, sequence: Sequence) -> None:
        """Take over the sequence of a finished request; `ids`: what it holds, int32 `[n]`.

        One that holds nothing new is closed instead.
        """
        known = any(
            held.key == key and common_prefix(held.ids, ids) == len(ids) for held in self._kept
        )
        if known or not len(ids):
            sequence.close()
        else:
            self._kept.append(Held(key, ids, sequence))

    def clear(self) -> None:
        """Close all that is kept."""
        while self._kept:
            self._kept.pop().sequence.close()

    def _make_room(self) -> bool:
        """Whether a slot is free, if need be after closing the sequence used least recently."""
        if not self._scheduler.slots.free and self._kept:
            self._kept.pop(0).sequence.close()
        return self._scheduler.slots.free > 0
