# SPDX-License-Identifier: Apache-2.0
"""Server-sent events, and work that ends when the client leaves."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from adapmoe.serve.errors import ApiError, ClientGoneError, failed
from adapmoe.serve.json_text import json_bytes
from adapmoe.serve.service import Answering

Result = TypeVar("Result")

DONE = b"data: [DONE]\n\n"
PING = b": waiting\n\n"
SILENCE_S = 20.0  # at most, while a stream goes on


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One event. JSON has no line breaks of its own, so it is one line of data."""
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + json_bytes(data) + b"\n\n"


async def until_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Do `work`, but cancel it as soon as the client leaves.

    Args:
        receive: of the request, whose body has been read.
        work: what to do; after this returns or raises, it does not run any more.

    Raises:
        ClientGoneError: the client left first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


async def complete(
    receive: Receive, answering: Answering, work: Coroutine[Any, Any, Result]
) -> Result:
    """Do `work` on an answer that is wanted as a whole; then close it.

    Raises:
        ApiError: the answer failed, or the client left.
    """
    try:
        return await until_gone(receive, work)
    except ApiError:
        raise
    except Exception as error:  # every one is answered in the API's own shape
        raise failed(error) from error
    finally:
        await answering.aclose()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Sends events while they are made; whatever happens, the answer is closed at the end.

    After some seconds without an event it sends a comment, which clients skip: proxies and clients
    give up on connections that are silent, and a long prompt takes its time.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        answering: Answering,
        on_error: Callable[[ApiError], bytes],
    ) -> None:
        """Take what to send.

        Args:
            events: made of `answering`.
            answering: closed at the end.
            on_error: makes the last event where the answer fails: the status is sent already.
        """
        super().__init__(
            _with_error(events, on_error),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self._events = events
        self._answering = answering
        self._sent: float | None = None  # when, by the loop's clock; None before and after the body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or as much as the client stays for."""
        clock = asyncio.get_running_loop().time

        async def noted(message: Message) -> None:
            ends = message["type"] == "http.response.body" and not message.get("more_body")
            self._sent = None if ends else clock()
            await send(message)

        pinging = asyncio.ensure_future(self._ping(noted))
        try:
            await until_gone(receive, self.stream_response(noted))
        except ClientGoneError:
            pass
        finally:
            pinging.cancel()
            await self._answering.aclose()  # first: this task may be cancelled while it waits
            await self._events.aclose()
            await asyncio.wait({pinging})

    async def _ping(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(SILENCE_S / 2)
            if self._sent is not None and clock() - self._sent >= SILENCE_S / 2:
                await send({"type": "http.response.body", "body": PING, "more_body": True})


async def _with_error(
    events: AsyncGenerator[bytes, None], on_error: Callable[[ApiError], bytes]
) -> AsyncGenerator[bytes, None]:
    try:
        async for one in events:
            yield one
    except Exception as error:  # whatever it is, the client must learn that the answer ended early
        yield on_error(failed(error))
