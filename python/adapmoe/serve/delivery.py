# SPDX-License-Identifier: Apache-2.0
"""From the engine's thread to the event loop: the answer to one request, while it is computed."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from adapmoe.generation.request import GenerationChunk, GenerationResult, Request

News = GenerationChunk | Exception


class Answer:
    """The choices of one request, for the event loop: an asynchronous iterator of chunks.

    The engine's thread posts to it; everything else happens in the event loop.
    """

    def __init__(
        self, requests: list[Request], firsts: list[Request], cancel: Callable[["Answer"], None]
    ) -> None:
        """Use `Engine.answer`.

        Args:
            requests: one per choice.
            firsts: the first choice of each prompt.
            cancel: called once if nobody waits for the end.
        """
        self._requests = requests
        self._firsts = firsts
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()
        self._news: deque[News] = deque()
        self._arrived = asyncio.Event()
        self._unfinished = len(requests)

    def __aiter__(self) -> "Answer":
        """Return itself."""
        return self

    async def __anext__(self) -> GenerationChunk:
        """The next chunk of any choice. Raises what ended the request early."""
        while not self._news:
            if not self._unfinished:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        news = self._news.popleft()
        if isinstance(news, Exception):
            self._unfinished = 0
            raise news
        if news.finish_reason:
            self._unfinished -= 1
        return news

    @property
    def results(self) -> list[GenerationResult]:
        """One per choice; complete once the iterator has ended."""
        return [request.result() for request in self._requests]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(request.prompt) for request in self._firsts)

    @property
    def cached_tokens(self) -> int:
        """Those that were taken over from an earlier request; later choices do so in any case."""
        return sum(request.stats.cached_tokens for request in self._firsts)

    async def aclose(self) -> None:
        """Cancel what is left, within one step. Closing twice is harmless."""
        if self._unfinished:
            self._unfinished = 0
            self._cancel(self)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it is waited for."""
        return self._loop

    def take(self, news: News) -> None:
        """Pass on what is new; in the event loop."""
        self._news.append(news)
        self._arrived.set()


def deliver(news: list[tuple[Answer, News]]) -> None:
    """Tell the event loop what is new of several answers, from the engine's thread.

    Waking the loop costs more than all the rest, so it is woken once.
    """
    for loop in {answer.loop for answer, _ in news}:
        own = [(answer, new) for answer, new in news if answer.loop is loop]
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(_take_all, own)


def _take_all(news: list[tuple[Answer, News]]) -> None:
    for answer, new in news:
        answer.take(new)
