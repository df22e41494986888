# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 connection: as uvicorn has it, but a client that does not go on is cut off."""

import asyncio
from enum import Enum
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from adapmoe.serve.errors import ApiError, error_response

KEEP_ALIVE_S = 30  # between two requests
MAX_HEAD_BYTES = 16 << 10

_MIN_BYTES_PER_S = 1024  # of a body
_READER_STALL_S = 60.0  # a client that takes nothing of its answer


class _Owed(Enum):
    """What the client has to send."""

    NOTHING = 0
    HEAD = 1  # the rest of a request's head
    BODY = 2
    REST = 3  # of a body that is thrown away: the answer is complete


class Connection(H11Protocol):
    """A connection with deadlines, and a polite refusal where there are too many.

    A head must be there `header_timeout` seconds after its beginning, the first one after the
    connection was made. A body may not stall so long, nor come slower than 1 KiB/s.
    """

    def __init__(self, *, max_connections: int, header_timeout: float, **uvicorn: Any) -> None:
        """`uvicorn`: what its class takes."""
        super().__init__(**uvicorn)
        self._max_connections = max_connections
        self._header_timeout = header_timeout
        self._over = False
        self._owed = _Owed.NOTHING
        self._since = 0.0
        self._received = 0  # bytes, since then
        self._ends = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        # As many again are told so; of yet more, not even that can be afforded.
        if len(self.connections) > 2 * self._max_connections:
            transport.abort()
            return
        self._over = len(self.connections) > self._max_connections
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        self._over = self._over and len(self.connections) > self._max_connections
        self.app = _refuse if self._over else self.config.loaded_app
        self._received += len(data)
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Go on with what the client sent meanwhile."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget all deadlines."""
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to take some of its answer, but not for ever."""
        super().pause_writing()
        self._stalled = self.loop.call_later(_READER_STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def _watch(self) -> None:
        """Find what the client owes now, and until when."""
        owed, now = self._what_is_owed(), self.loop.time()
        if owed is not self._owed:
            self._owed, self._since, self._received = owed, now, 0
        self._ends = self._since + self._header_timeout
        if owed is _Owed.BODY:
            slowest = self._ends + self._received / _MIN_BYTES_PER_S
            self._ends = min(now + self._header_timeout, slowest)
        if owed is not _Owed.NOTHING and self._timer is None:
            self._timer = self.loop.call_at(self._ends, self._expire)

    def _what_is_owed(self) -> _Owed:
        theirs = self.conn.their_state
        if self.transport.is_closing():
            return _Owed.NOTHING
        if theirs is h11.IDLE:
            begun = self.cycle is None or self.conn.trailing_data[0]
            return _Owed.HEAD if begun else _Owed.NOTHING
        if theirs is h11.SEND_BODY:
            return _Owed.REST if self.conn.our_state is h11.DONE else _Owed.BODY
        return _Owed.NOTHING

    def _expire(self) -> None:
        """Cut the client off, unless something has come since the timer was set."""
        self._timer = None
        if self._owed is _Owed.NOTHING or self.transport.is_closing():
            return
        now = self.loop.time()
        if self._owed is _Owed.BODY and self.flow.read_paused:  # it waits for us
            self._since, self._ends = now, now + self._header_timeout
        if now < self._ends:
            self._timer = self.loop.call_at(self._ends, self._expire)
        else:
            self.transport.close()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer that there are too many connections."""
    message = "the server has as many connections as it may; try again in a second"
    error = ApiError(503, message, code="too_many_connections", retry_after=1)
    await error_response(scope["path"], error)(scope, receive, send)
