# SPDX-License-Identifier: Apache-2.0
"""Chunks of text as an iterator: steps run in the thread that asks for them."""

import asyncio
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from adapmoe.generation import GenerationChunk, GenerationResult
from adapmoe.opened_in import NotCopied
from adapmoe.step_loop import StepLoop

if TYPE_CHECKING:
    from adapmoe.text_level import TextLevel


class GenerationStream(NotCopied, Iterator[GenerationChunk]):
    """Iterator of chunks over one or several prompts, from `LLM.generate(..., stream=True)`.

    Up to `max_sequences` prompts are decoded together; the next one starts when one has finished.
    Each text is the same as if its prompt had been alone. Leaving early: `close()`, or use it as a
    context manager. One stream belongs to one thread at a time.
    """

    def __init__(self, loop: StepLoop, llm: "TextLevel") -> None:
        """Use `LLM.generate` or `LLM.chat`."""
        self._loop = loop
        self._llm = llm

    def __next__(self) -> GenerationChunk:
        """Run steps until a chunk is ready. Raises what the steps raise, and is closed then.

        Waits while other threads' generations hold all places; AdapmoeError if this thread holds
        one itself or all are held by sequences opened by hand, where waiting might never end.
        """
        while not self._loop.ready:
            if self._loop.finished:
                raise StopIteration
            try:
                self._advance()
            except BaseException:
                self.close()
                raise
        return self._loop.ready.popleft()

    def _advance(self) -> None:
        owner = threading.get_ident()
        if self._loop.needs_place:
            # In a thread with an event loop, waiting would stop the very tasks it waits for.
            waiting = self._llm._places.reserve(owner, may_wait=not _in_event_loop())
            try:
                place = waiting.result()
            except BaseException:
                if not waiting.cancel() and waiting.exception() is None:  # interrupted too late
                    waiting.result().give_back()
                raise
            self._loop.begin(place)
        self._loop.step(owner)

    @property
    def results(self) -> list[GenerationResult]:
        """What there is of every prompt, in order; complete once the iterator has ended."""
        return self._loop.results

    def close(self) -> None:
        """Stop; give all places back. `results` keeps what was generated."""
        self._loop.close()

    def __enter__(self) -> "GenerationStream":
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


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
