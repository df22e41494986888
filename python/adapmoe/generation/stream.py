# SPDX-License-Identifier: Apache-2.0
"""Chunks of text as an iterator, for threads and for asyncio."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from adapmoe.errors import ClosedError, ForkError
from adapmoe.generation.request import GenerationChunk, GenerationResult
from adapmoe.generation.scheduler import StepLoop
from adapmoe.opened_in import NotCopied, OpenedIn

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


class Worker:
    """One thread, begun when it is first needed, that runs the steps of all asynchronous streams.

    More threads would not help, the core runs one step at a time; and one takes turns fairly.
    """

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._opened_in = OpenedIn()
        self._closed = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="adapmoe")

    async def run(self, call: Callable[[], None]) -> None:
        """Run `call` in the thread; if the task is cancelled, raise only when `call` has ended."""
        self._opened_in.check()
        try:
            future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        except RuntimeError as error:  # shut down
            if not self._closed and threading.current_thread() is not threading.main_thread():
                raise SystemExit from error  # Python exits, which ends the core's steps likewise
            raise ClosedError("the model was closed, or Python is exiting") from error
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            raise

    def close(self) -> None:
        """Let the thread end; does not wait for it."""
        self._closed = True
        self._executor.shutdown(wait=False)


class AsyncGenerationStream(NotCopied, AsyncIterator[GenerationChunk]):
    """Asynchronous iterator of chunks, from `LLM.generate_async` or `LLM.chat_async`.

    Several streams may run at once; their steps take turns. A stream that finds all places taken by
    streams of other tasks, or by generations of other threads, waits for one. Cancelling the task
    stops the generation after the step that is running (one token, or `prefill_chunk` tokens of a
    prompt) and gives its place back. Leaving early: `await aclose()`, or use it as an asynchronous
    context manager. One stream belongs to one task at a time.
    """

    def __init__(self, loop: StepLoop, llm: "TextLevel") -> None:
        """Use `LLM.generate_async` or `LLM.chat_async`."""
        self._loop = loop
        self._llm = llm

    async def __anext__(self) -> GenerationChunk:
        """Run steps until a chunk is ready. Raises what the steps raise, and is closed then.

        AdapmoeError if all places are taken and waiting might never end: this task holds one
        itself by another stream, or all are held by sequences opened by hand.
        """
        while not self._loop.ready:
            if self._loop.finished:
                raise StopAsyncIteration
            try:
                await self._advance()
            except BaseException:
                await self.aclose()
                raise
        return self._loop.ready.popleft()

    async def _advance(self) -> None:
        owner = asyncio.current_task()
        if self._loop.needs_place:
            waiting = self._llm._places.reserve(owner)
            try:
                place = await asyncio.wrap_future(waiting)
            except BaseException:
                if not waiting.cancel() and waiting.exception() is None:  # cancelled too late
                    waiting.result().give_back()
                raise
            self._loop.begin(place)
        await self._llm._worker.run(lambda: self._loop.step(owner))

    @property
    def results(self) -> list[GenerationResult]:
        """What there is of every prompt, in order; complete once the iterator has ended."""
        return self._loop.results

    async def aclose(self) -> None:
        """Stop; give all places back. `results` keeps what was generated."""
        try:  # in the thread, because it may have to wait for somebody else's step
            await self._llm._worker.run(self._loop.close)
        except (ClosedError, ForkError):
            self._loop.close()

    async def __aenter__(self) -> "AsyncGenerationStream":
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        await self.aclose()
