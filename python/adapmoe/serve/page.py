# SPDX-License-Identifier: Apache-2.0
"""The page at `/`: plain files of this package, which load nothing from elsewhere."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

_FOLDER = Path(__file__).with_name("page")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_NAMES = (
    "api.js",
    "chat.css",
    "chat.js",
    "composer.js",
    "feed.js",
    "figures.js",
    "format.js",
    "icon.svg",
    "machine.css",
    "main.js",
    "map.js",
    "settings.js",
    "style.css",
    "transcript.js",
)
_FILES = {"/": "index.html"} | {f"/page/{name}": name for name in _NAMES}

PATHS = frozenset(_FILES)  # without an API key: nothing in these files is secret

# Trusted Types: no script of the page, whatever it does, can turn text into markup.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def router() -> APIRouter:
    """Routes for the files there are; they are read once, now."""
    routes = APIRouter()
    for path, name in _FILES.items():
        routes.add_api_route(
            path, _sender(_FOLDER / name), methods=["GET", "HEAD"], include_in_schema=False
        )
    return routes


def _sender(file: Path) -> Callable[[], Awaitable[Response]]:
    data, kind = file.read_bytes(), _TYPES[file.suffix]

    async def send() -> Response:
        return Response(data, headers=_HEADERS, media_type=kind)

    return send
