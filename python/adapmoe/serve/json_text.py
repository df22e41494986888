# SPDX-License-Identifier: Apache-2.0
"""JSON as responses hold it."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

_LONG = 100  # items of a list that is written in pieces


def json_bytes(value: Any) -> bytes:
    """`value` as compact JSON in UTF-8.

    Half a surrogate pair, which UTF-8 cannot hold, is escaped: a request may have held it so.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")


def json_in_pieces(value: Any) -> Iterator[bytes]:
    """What `json_bytes` writes, in pieces: long lists item by item.

    Nothing else runs while one piece is made, in whatever thread.
    """
    if isinstance(value, dict):
        for at, (key, one) in enumerate(value.items()):
            yield (b"," if at else b"{") + json_bytes(key) + b":"
            yield from json_in_pieces(one)
        yield b"}" if value else b"{}"
    elif isinstance(value, list) and value:
        for at, one in enumerate(value):
            yield b"," if at else b"["
            yield from [json_bytes(one)] if len(value) > _LONG else json_in_pieces(one)
        yield b"]"
    else:
        yield json_bytes(value)


async def json_response(make: Callable[[], Any], *, large: bool) -> Response:
    """A response with what `make` returns. `large`: it may be megabytes; a thread writes it."""

    def written() -> bytes:
        return b"".join(json_in_pieces(make()))

    body = await run_in_threadpool(written) if large else json_bytes(make())
    return Response(body, media_type="application/json")
