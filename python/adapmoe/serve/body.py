# SPDX-License-Identifier: Apache-2.0
"""Routes that look at the size of a body's structure before they parse it."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from adapmoe.serve.errors import ApiError, ClientGoneError

# Also those in texts count. A prompt with as many has more tokens than models take.
MAX_BRACKETS = 500_000


class BodyRoute(APIRoute):
    """A route that refuses bodies of very many objects and lists.

    Parsed, each takes 20 times the memory and more, and all of it happens in the event loop.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            try:
                body = await request.body()
            except ClientDisconnect:
                raise ClientGoneError from None
            brackets = body.count(b"[") + body.count(b"{")
            if brackets > MAX_BRACKETS:
                raise ApiError(
                    400,
                    f"the body has {brackets} opening brackets, of objects, of lists and in texts; "
                    f"at most {MAX_BRACKETS} can be",
                )
            return await handle(request)

        return checked
