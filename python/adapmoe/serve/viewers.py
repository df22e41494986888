# SPDX-License-Identifier: Apache-2.0
"""GET /activity: the same events for all who look, made once, and none while nobody does."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from adapmoe.errors import ClosedError
from adapmoe.serve.activity import TICK_S
from adapmoe.serve.errors import ApiError, ClientGoneError
from adapmoe.serve.sse import until_gone

_log = logging.getLogger("adapmoe.serve")

MOST_VIEWERS = 16  # each holds one of the server's connections
LIFE_S = 3.0  # without news: the last event again, as a sign of life


class Viewers:
    """Those who look. To be used in one event loop."""

    def __init__(self, make: Callable[[], bytes], goes_on: Callable[[], bool]) -> None:
        """Take whom to ask.

        Args:
            make: makes an event; ClosedError ends all streams.
            goes_on: False ends all streams: the server shuts down.
        """
        self._make = make
        self._goes_on = goes_on
        self._count = 0
        self._latest: bytes | None = None  # None: there is none yet
        self._over = True  # there will be no more, until somebody looks again
        self._changed = asyncio.Event()  # a new one for every event
        self._ticking: asyncio.Task[None] | None = None

    def check_room(self) -> None:
        """Whether one more may look.

        Raises:
            ApiError: there are as many as may be, or the server shuts down.
        """
        if not self._goes_on():
            raise ApiError(503, "the server is shutting down", code="unavailable", retry_after=5)
        if self._count >= MOST_VIEWERS:
            message = f"{MOST_VIEWERS} pages show this machine already; close one of them"
            raise ApiError(503, message, code="too_many_viewers", retry_after=10)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The newest event, then always the newest there is once the one before has been taken.

        A reader that is slow misses some; nothing is kept for it.
        """
        self._count += 1
        try:
            if self._over:
                self._over, self._latest = False, None
                self._ticking = asyncio.create_task(self._tick())
            while not self._over:
                changed = self._changed
                if self._latest is not None:
                    yield self._latest
                await changed.wait()
        finally:
            self._count -= 1

    async def _tick(self) -> None:
        clock = asyncio.get_running_loop().time
        told = clock()
        try:
            while self._count and self._goes_on():
                made, now = self._make(), clock()
                if made != self._latest or now - told >= LIFE_S:
                    told, self._latest = now, made
                    self._tell()
                await asyncio.sleep(TICK_S)
        except ClosedError:
            pass
        except Exception:
            _log.exception("the activity of the machine cannot be shown")
        finally:
            self._over = True
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Stream(StreamingResponse):
    """All events, until the viewer leaves."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_gone(receive, self.stream_response(send))
        except ClientGoneError:
            pass
        finally:
            await self._events.aclose()


def router(viewers: Viewers) -> APIRouter:
    """The route of the events."""
    routes = APIRouter()

    # Not in the document of the API: a client made from that would wait for an end.
    @routes.get("/activity", include_in_schema=False)
    async def activity() -> Response:
        """What the machine does, as server-sent events: at most ten a second."""
        viewers.check_room()
        return _Stream(viewers.events())

    return routes
