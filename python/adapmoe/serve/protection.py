# SPDX-License-Identifier: Apache-2.0
"""What a request passes before the APIs see it: Host, Origin, API key and the size of its body."""

import ipaddress
import re
import socket
from collections.abc import Callable, Collection

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapmoe.serve.errors import ApiError, error_response
from adapmoe.serve.settings import ServeSettings
from adapmoe.units import format_bytes

FindKey = Callable[[str], str | None]  # the name of the key with this secret

OPEN_PATHS = frozenset({"/health", "/ready"})  # need no key

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?", re.ASCII)


def protect(app: ASGIApp, settings: ServeSettings, find_key: FindKey | None) -> ASGIApp:
    """Put all checks before `app`. `find_key` None: there are no keys."""
    app = BodyLimit(app, settings.max_body_bytes)
    app = KeyCheck(app, find_key)
    app = OriginCheck(app, settings.cors)
    if settings.cors:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("Retry-After",),
        )
    return HostCheck(app, settings.allowed_hosts, settings.host)


async def _refuse(
    scope: Scope, receive: Receive, send: Send, error: ApiError, **headers: str
) -> None:
    """Answer with an error in the shape of the API that was called."""
    response = error_response(scope["path"], error)
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    await response(scope, receive, send)


def _header(scope: Scope, name: bytes) -> list[str]:
    """All values of a header; `name` in small letters."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


class HostCheck:
    """Refuses requests that call this machine by a name which is not its own.

    A web page can let a name of its own point to this machine (DNS rebinding), and then its browser
    lets it read answers; but the name is in the Host header. An address is no such name: unless
    hosts are listed, all addresses are allowed.
    """

    def __init__(self, app: ASGIApp, listed: Collection[str], bound: str) -> None:
        """`listed`: names and addresses; empty: this machine's. `bound`: where it listens."""
        self._app = app
        self._names = frozenset(listed or _own_names(bound))
        self._any_address = not listed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        values = _header(scope, b"host")
        name = parse_host(values[0]) if len(values) == 1 else None
        if name is None:
            error = ApiError(400, "the request needs one Host header: a name or address, and port")
            return await _refuse(scope, receive, send, error)
        if name not in self._names and not (self._any_address and _is_address(name)):
            message = (
                f"this server is not called {name!r}; if it should be, add that name to its "
                "allowed_hosts"
            )
            error = ApiError(403, message, code="host_not_allowed")
            return await _refuse(scope, receive, send, error)
        await self._app(scope, receive, send)


def _own_names(bound: str) -> list[str]:
    return [*_LOOPBACK_NAMES, bound.lower(), socket.gethostname().lower()]


def parse_host(value: str) -> str | None:
    """What a Host header calls the machine: in small letters, without port; None: no such thing."""
    match = _HOST.fullmatch(value.strip().lower())
    if match is None:
        return None
    name = match[1].strip("[]").rstrip(".")
    return str(ipaddress.ip_address(name)) if _is_address(name) else name or None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class OriginCheck:
    """Refuses requests of web pages from elsewhere, which a browser would send even without CORS.

    A page may post `text/plain` to any server without asking it; it would not see the answer, but
    the machine would work for it.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        """`origins`: of web pages that may; others only where the server itself is the origin."""
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "lifespan":
            hosts = [value.strip().lower() for value in _header(scope, b"host")]
            for origin in _header(scope, b"origin"):
                lower = origin.strip().lower()
                if lower not in self._origins and lower.partition("://")[2] not in hosts:
                    message = (
                        f"web pages of {origin!r} may not use this server; if they should, add "
                        "that origin to its cors"
                    )
                    error = ApiError(403, message, code="origin_not_allowed")
                    return await _refuse(scope, receive, send, error)
        await self._app(scope, receive, send)


class KeyCheck:
    """Lets in who has an API key, and stores the key's name in `scope["state"]["key"]`.

    The key comes as `Authorization: Bearer KEY` or as `x-api-key: KEY`. Without keys all may enter,
    and the name is "".
    """

    def __init__(self, app: ASGIApp, find_key: FindKey | None) -> None:
        """`find_key` None: there are no keys."""
        self._app = app
        self._find_key = find_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        name: str | None = ""
        if self._find_key is not None and scope["path"] not in OPEN_PATHS:
            names = [self._find_key(secret) for secret in _presented(scope)]
            name = next((each for each in names if each is not None), None)
        if name is None:
            message = (
                "a valid API key is needed: send the header 'Authorization: Bearer KEY' or "
                "'x-api-key: KEY'"
            )
            error = ApiError(401, message, code="invalid_api_key")
            return await _refuse(scope, receive, send, error, WWW_Authenticate="Bearer")
        scope.setdefault("state", {})["key"] = name
        await self._app(scope, receive, send)


def _presented(scope: Scope) -> list[str]:
    """The secrets that a request presents."""
    found = []
    for value in _header(scope, b"authorization"):
        scheme, _, secret = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            found.append(secret.strip())
    return found + [value.strip() for value in _header(scope, b"x-api-key")]


class BodyLimit:
    """Reads the whole body of a request first, and refuses one that is too long."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """`limit`: most bytes."""
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        declared = _header(scope, b"content-length")
        too_long = any(each.isdecimal() and int(each[:20]) > self._limit for each in declared)
        body = b"" if too_long else await _read_body(receive, self._limit)
        if body is None:  # the client is gone
            return
        if too_long or len(body) > self._limit:
            message = f"the body is longer than {format_bytes(self._limit)}, the max_body here"
            error = ApiError(413, message, code="body_too_large")
            return await _refuse(scope, receive, send, error)
        await self._app(scope, _replayed(body, receive), send)


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The body, or of one that is too long slightly more than `limit`; None: it never ended."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > limit or not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """First the body that was read already, then what else comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
