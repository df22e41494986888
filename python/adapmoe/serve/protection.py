# SPDX-License-Identifier: Apache-2.0
"""What a request passes before the APIs see it: Host, Origin, API key and the size of its body."""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Iterator

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapmoe.serve import page
from adapmoe.serve.errors import ApiError, error_response
from adapmoe.serve.settings import ServeSettings
from adapmoe.units import format_bytes

FindKey = Callable[[str], str | None]  # the name of the key with this secret

OPEN_PATHS = frozenset({"/health", "/ready"}) | page.PATHS  # need no key

# Bodies are read before anybody looks at them, on as many connections as there may be: together
# they may take what some of the longest need, and enough where even the longest is short.
_LONGEST_BODIES = 8
_LEAST_FOR_BODIES = 64 << 20  # bytes

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?", re.ASCII)


def protect(app: ASGIApp, settings: ServeSettings, find_key: FindKey | None) -> ASGIApp:
    """Put all checks before `app`. `find_key` None: there are no keys."""
    app = BodyLimit(app, settings.max_body_bytes, bytes_for_bodies(settings.max_body_bytes))
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
    lets it read answers; but the name is in the Host header. No page has an address or "localhost"
    for a name, so that these are always allowed.
    """

    def __init__(self, app: ASGIApp, listed: Collection[str], bound: str) -> None:
        """`listed`: names besides this machine's own. `bound`: where it listens."""
        self._app = app
        self._names = frozenset([*_own_names(bound), *listed])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        values = _header(scope, b"host")
        name = parse_host(values[0]) if len(values) == 1 else None
        if name is None:
            error = ApiError(400, "the request needs one Host header: a name or address, and port")
            return await _refuse(scope, receive, send, error)
        if name not in self._names and not _is_address(name):
            message = (
                f"this server is not called {name!r}; if it should be, add that name to its "
                "allowed_hosts"
            )
            error = ApiError(403, message, code="host_not_allowed")
            return await _refuse(scope, receive, send, error)
        await self._app(scope, receive, send)


def _own_names(bound: str) -> list[str]:
    """The last one is what multicast DNS calls this machine."""
    own = socket.gethostname().lower()
    return ["localhost", bound.lower().rstrip("."), own, own.partition(".")[0] + ".local"]


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


def bytes_for_bodies(longest: int) -> int:
    """How many bytes the bodies of all requests may take together, where one may take `longest`."""
    return max(_LONGEST_BODIES * longest, _LEAST_FOR_BODIES)


class BodyLimit:
    """Reads the whole body of a request first, and refuses one that is too long.

    A body counts, as far as it has come, until its request has been answered; one for which the
    bodies of other requests leave no room is refused with 503.
    """

    def __init__(self, app: ASGIApp, limit: int, total: int) -> None:
        """`limit`: most bytes of a body. `total`: of all bodies at a time."""
        self._app = app
        self._limit = limit
        self._free = total

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        declared = _header(scope, b"content-length")
        if any(each.isdecimal() and int(each[:20]) > self._limit for each in declared):
            return await _refuse(scope, receive, send, self._too_long())
        with self._share() as take:
            try:
                replay = await self._read(receive, take)
            except ApiError as error:
                return await _refuse(scope, receive, send, error)
            if replay is not None:  # the client is still there
                await self._app(scope, replay, send)

    @contextlib.contextmanager
    def _share(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of one request: a function to take some; all are free at the end."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if count > self._free:
                message = (
                    "the bodies of other requests fill the room that the server has for them; "
                    "try again in a second"
                )
                raise ApiError(503, message, code="too_many_bodies", retry_after=1)
            self._free -= count
            taken += count

        try:
            yield take
        finally:
            self._free += taken

    async def _read(self, receive: Receive, take: Callable[[int], None]) -> Receive | None:
        """Read the body; a `receive` that has it whole, None: it never ended.

        Raises:
            ApiError: the body is too long, or there is no room for it.
        """
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            part = message.get("body", b"")
            if len(body) + len(part) > self._limit:
                raise self._too_long()
            take(len(part))
            body += part
            if not message.get("more_body", False):
                return _replayed(bytes(body), receive)

    def _too_long(self) -> ApiError:
        message = f"the body is longer than {format_bytes(self._limit)}, the max_body here"
        return ApiError(413, message, code="body_too_large")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """First the body that was read already, then what else comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
