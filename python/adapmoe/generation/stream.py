# SPDX-License-Identifier: Apache-2.0
"""Iterators over chunks of text, for threads and for asyncio."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future

from adapmoe.errors import ClosedError, ForkError
from adapmoe.generation.request import GenerationChunk, GenerationResult
from adapmoe.generation.scheduler import Batch
from adapmoe.generation.slots import Slot
from adapmoe.machine.process import NotCopied


class GenerationStream(NotCopied, Iterator[GenerationChunk]):
    """Iterator over the chunks of one or several prompts, from `LLM.generate(..., stream=True)`.

    Steps run in the thread that asks for chunks. Up to `max_sequences` prompts are decoded
    together; the next one starts when one has finished. Each text is the same as if its prompt were
    alone. To leave early, call `close()` or use it as a context manager. Use one stream in one
    thread at a time.
    """

    def __init__(self, batch: Batch) -> None:
        """Use `LLM.generate` or `LLM.chat`."""
        self._batch = batch

    def __next__(self) -> GenerationChunk:
        """Run steps until a chunk is ready. If a step raises, the stream is closed.

        Waits while other threads' generations hold all slots. Raises AdapmoeError where waiting
        might never end: this thread holds a slot itself, or sequences opened by hand hold them all.
        """
        while not self._batch.ready:
            if self._batch.finished:
                raise StopIteration
            try:
                self._advance()
            except BaseException:
                self.close()
                raise
        return self._batch.ready.popleft()

    def _advance(self) -> None:
        owner = threading.get_ident()
        if self._batch.needs_slot:
            # In a thread with an event loop, waiting would stop the very tasks it waits for.
            slots = self._batch.scheduler.slots
            waiting = slots.reserve(owner, may_wait=not _in_event_loop())
            try:
                slot = waiting.result()
            except BaseException:
                _abandon(waiting)
                raise
            self._batch.begin(slot)
        self._batch.step(owner)

    def run(self) -> list[GenerationResult]:
        """Run to the end, close, and return the result of every prompt, in order."""
        with self:
            for _ in self:
                pass
        return self.results

    @property
    def results(self) -> list[GenerationResult]:
        """What every prompt has generated so far, in order; complete once the iterator ends."""
        return self._batch.results

    def close(self) -> None:
        """Stop and give all slots back. `results` keeps what was generated."""
        self._batch.close()

    def __enter__(self) -> "GenerationStream":
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()


class AsyncGenerationStream(NotCopied, AsyncIterator[GenerationChunk]):
    """Asynchronous iterator over chunks, from `LLM.generate_async` or `LLM.chat_async`.

    Steps run in a worker thread, so the event loop stays free. Several streams may run at once;
    their steps take turns. A stream waits for a slot while other tasks' streams or other threads'
    generations hold them all. Cancelling the task stops the generation after the running step (one
    token, or `prefill_chunk` tokens of a prompt) and gives its slot back. To leave early, call
    `await aclose()` or use it as an asynchronous context manager. Use one stream in one task at a
    time.
    """

    def __init__(self, batch: Batch) -> None:
        """Use `LLM.generate_async` or `LLM.chat_async`."""
        self._batch = batch

    async def __anext__(self) -> GenerationChunk:
        """Run steps until a chunk is ready. If a step raises, the stream is closed.

        Raises AdapmoeError if all slots are taken and waiting might never end: this task holds one
        itself through another stream, or sequences opened by hand hold them all.
        """
        while not self._batch.ready:
            if self._batch.finished:
                raise StopAsyncIteration
            try:
                await self._advance()
            except BaseException:
                await self.aclose()
                raise
        return self._batch.ready.popleft()

    async def _advance(self) -> None:
        owner = asyncio.current_task()
        scheduler = self._batch.scheduler
        if self._batch.needs_slot:
            waiting = scheduler.slots.reserve(owner)
            try:
                slot = await asyncio.wrap_future(waiting)
            except BaseException:
                _abandon(waiting)
                raise
            self._batch.begin(slot)
        await scheduler.worker.run(lambda: self._batch.step(owner))

    @property
    def results(self) -> list[GenerationResult]:
        """What every prompt has generated so far, in order; complete once the iterator ends."""
        return self._batch.results

    async def aclose(self) -> None:
        """Stop and give all slots back. `results` keeps what was generated."""
        try:  # in the thread, because it may have to wait for another stream's step
            await self._batch.scheduler.worker.run(self._batch.close)
        except (ClosedError, ForkError):
            self._batch.close()

    async def __aenter__(self) -> "AsyncGenerationStream":
        """Return itself."""
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Close."""
        await self.aclose()


def _abandon(waiting: "Future[Slot]") -> None:
    """Leave the queue, or give back a slot that arrived after all."""
    if not waiting.cancel() and waiting.exception() is None:
        waiting.result().give_back()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
