# SPDX-License-Identifier: Apache-2.0
"""An open pack without text: sequences, batches, memory, and closing."""

import os
from collections.abc import Sequence as ItemSequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from adapmoe import checks
from adapmoe.core_types import Registration, RoutingVisit, Span
from adapmoe.errors import ClosedError
from adapmoe.generation.sequence import Sequence, decode_batch
from adapmoe.generation.slots import Place, Places
from adapmoe.machine.power import PowerMeter
from adapmoe.opened_in import NotCopied, OpenedIn
from adapmoe.units import parse_memory

if TYPE_CHECKING:
    from adapmoe import _core

Opened = TypeVar("Opened", bound="StepLevel")


class StepLevel(NotCopied):
    """What `LLM` offers without a tokenizer; every method is described there as well as here."""

    def __init__(
        self, path: str | os.PathLike[str], session: "_core.Session", prefill_chunk: int
    ) -> None:
        """Use `LLM`."""
        self._opened_in = OpenedIn()
        self._path = Path(path)
        self._core: _core.Session | None = session
        self._places = Places(session.max_sequences)
        self.prefill_chunk = prefill_chunk
        self.power = PowerMeter()

    @property
    def _session(self) -> "_core.Session":
        core = self._core
        if core is None:
            raise ClosedError(f"{self._path}: this LLM is closed")
        return core

    def new_sequence(self) -> Sequence:
        """Begin a token stream to drive step by step.

        Raises:
            AdapmoeError: all `max_sequences` places are taken.
            ClosedError: the model is closed.
        """
        return self._open_sequence(self._places.take())

    def _open_sequence(self, place: Place) -> Sequence:
        """Open a sequence in a place of `Places`, which is given back if that fails."""
        try:
            return Sequence(self._session.new_sequence(), place, self.vocab_size)
        except BaseException:
            place.give_back()
            raise

    def decode_batch(self, items: ItemSequence[tuple[Sequence, int]]) -> NDArray[np.float32]:
        """Append one token to each of several sequences in one step.

        Args:
            items: (sequence, token id) pairs, every sequence at most once.

        Returns:
            float32 `[n, vocab_size]`: the logits after each token, in the order of `items`, bit by
            bit what `Sequence.decode` would return.

        Raises:
            TypeError: not such pairs.
            ContextOverflowError, ReadError, NonFiniteError, ClosedError, ValueError: as
                `Sequence.decode`.
        """
        return decode_batch(self._session, items)

    def set_memory(self, memory: int | str) -> "_core.MemorySplit":
        """Change the memory ceiling while the model is open, after a step that is running.

        Less memory evicts experts and gives their memory back; more lets more become resident.
        Sequences keep their tokens, and results do not change.

        Args:
            memory: bytes or a size such as "8GiB"; "auto" is not one.

        Returns:
            The new split, in bytes.

        Raises:
            BudgetError: below the floor of this model, or more than this process may take; the old
                ceiling stays.
            TypeError, ValueError: not a size.
        """
        size = parse_memory(memory)
        if size == 0:
            raise ValueError("set_memory needs a size such as '8GiB' or a number of bytes")
        return self._session.set_memory(size)

    def record_trace(self, on: bool) -> None:
        """Record routing from the next step on, or stop and forget what was recorded.

        `adapmoe.tracing.trace.trace_of` turns it into a `Trace`.
        """
        self._session.record_trace(checks.flag("on", on))

    def trace(self) -> list[RoutingVisit]:
        """The routing recorded so far, in order."""
        return self._session.trace()

    def timeline(self) -> list[Span]:
        """Spans since a model with `timeline=True` was opened, for `adapmoe.tracing.timeline`."""
        return self._session.timeline()

    @property
    def path(self) -> Path:
        """Where the pack is."""
        return self._path

    @property
    def memory_split(self) -> "_core.MemorySplit":
        """What the ceiling is spent on, in bytes."""
        return self._session.memory_split

    @property
    def stats(self) -> "_core.StepStats":
        """Sums over all steps since the pack was opened."""
        return self._session.totals

    @property
    def vocab_size(self) -> int:
        """Length of a row of logits."""
        return self._session.vocab_size

    @property
    def max_context(self) -> int:
        """Most tokens in one sequence."""
        return self._session.max_context

    @property
    def max_sequences(self) -> int:
        """Most sequences open at the same time."""
        return self._session.max_sequences

    @property
    def free_sequences(self) -> int:
        """How many more sequences can be opened now."""
        self._opened_in.check()
        return self._places.free

    @property
    def backend(self) -> str:
        """Backend and kernels in use, such as "cpu/avx2"."""
        return self._session.backend

    @property
    def reader(self) -> str:
        """What reads experts: "io_uring", or "pread" from a pool of threads."""
        return self._session.reader

    @property
    def registration(self) -> Registration:
        """What io_uring has registered."""
        return self._session.registration

    def close(self) -> None:
        """Close all sequences and give all memory back, after a step that is running.

        A generation in another thread ends with ClosedError. Closing twice is harmless.
        """
        core, self._core = self._core, None
        if core is not None:
            for sequence in self._places.close():
                sequence.close()
            core.close()

    def __enter__(self: Opened) -> Opened:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()
