# SPDX-License-Identifier: Apache-2.0
"""Chunks of text for asyncio: steps run in a worker thread, the event loop stays free."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from adapmoe.errors import ClosedError, ForkError
from adapmoe.generation import GenerationChunk, GenerationResult
from adapmoe.opened_in import NotCopied, OpenedIn
from adapmoe.step_loop import StepLoop

if TYPE_CHECKING:
    from adapmoe.text_level import TextLevel


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
