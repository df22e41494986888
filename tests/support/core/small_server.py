# SPDX-License-Identifier: Apache-2.0
"""A server with a small app instead of a model: `python -m support.core.small_server SETTINGS`.

SETTINGS: fields of ServeSettings as JSON. Prints a line for every event of its life.
"""

import asyncio
import json
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from adapmoe.serve.config import Config
from adapmoe.serve.settings import ServeSettings
from adapmoe.serve.start import OpenApp, start
from adapmoe.settings import Settings

dead = threading.Event()


def say(*words):
    print(*words, flush=True)


async def answer(request):
    body = await request.body()
    return PlainTextResponse(f"{request.state.key} sent {len(body)} bytes")


async def stream(request):
    """As many lines as asked for, 50 ms apart; says whether the client stayed."""

    async def lines():
        try:
            for number in range(int(request.query_params["lines"])):
                yield f"{number}\n"
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            say("client left")
            raise

    return StreamingResponse(lines(), media_type="text/plain")


async def fail(request):
    raise RuntimeError("a bug")


async def die(request):
    """What stands for the engine is no longer alive."""
    dead.set()
    return PlainTextResponse("dead")


@asynccontextmanager
async def lifespan(app):
    say("app begins")
    yield
    say("app ends")


@contextmanager
def open_app(config):
    routes = [
        Route("/", answer, methods=["GET", "POST"]),
        Route("/stream", stream),
        Route("/fail", fail),
        Route("/die", die),
        Route("/health", answer),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    try:
        yield OpenApp(app, lambda: say("drain"), lambda: not dead.is_set(), lambda: None)
    finally:
        say("closed")


if __name__ == "__main__":
    serve = ServeSettings(**json.loads(sys.argv[1]))
    start(Config(Path("none"), Settings(), serve), open_app, lambda url: say("ready", url))
