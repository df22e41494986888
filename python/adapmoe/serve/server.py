# SPDX-License-Identifier: Apache-2.0
"""Listens, runs an ASGI app until it is told to end, and lets running answers finish."""

import asyncio
import ipaddress
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from adapmoe.errors import AdapmoeError
from adapmoe.serve.config import ConfigError
from adapmoe.serve.connection import KEEP_ALIVE_S, MAX_HEAD_BYTES, Connection
from adapmoe.serve.settings import ServeSettings

_log = logging.getLogger("adapmoe")

_CLOSING_S = 2.0  # for answers that are cut off to notice it
_HANDSHAKE_S = 5.0  # of TLS: until then, a connection counts for no limit but that of open files
_TICKS = 10  # of uvicorn, in a second


class ServeError(AdapmoeError):
    """The server cannot listen, or its app cannot start or go on; the message says why."""


@dataclass(frozen=True)
class Hooks:
    """Whom the server tells what, all in its event loop.

    Attributes:
        ready: that it listens, with its URL.
        on_drain: that it was told to end; answers may run on for a while.
        on_reload: that it received SIGHUP.
        alive: asked about once a second; False ends the server, unless it was told to end.
        on_tick: about ten times a second, from `ready` to the end.
    """

    ready: Callable[[str], None]
    on_drain: Callable[[], None]
    on_reload: Callable[[], None]
    alive: Callable[[], bool]
    on_tick: Callable[[], None]


def find_address(settings: ServeSettings) -> tuple[socket.AddressFamily, str]:
    """The address to listen at, IPv4 before IPv6.

    Raises:
        ConfigError: the host is unknown, or other machines could reach it and there are no keys.
    """
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"host: {settings.host!r} is neither an address nor a name of this machine: {error}"
        ) from None
    family, _, _, _, where = min(found, key=lambda each: each[0] != socket.AF_INET)
    address = str(where[0])
    if settings.keys is None and not ipaddress.ip_address(address.split("%")[0]).is_loopback:
        raise ConfigError(
            f"host: other machines could use {settings.host} ({address}) without a key; name a "
            "file of API keys (keys), or listen at 127.0.0.1 only"
        )
    return family, address


def load_tls(settings: ServeSettings) -> ssl.SSLContext | None:
    """The certificate and its key; None: HTTP without TLS.

    Raises:
        ConfigError: one of the two is not given or cannot be read, or they do not fit together.
    """
    if settings.tls_key is None and settings.tls_cert is None:
        return None
    if settings.tls_key is None or settings.tls_cert is None:
        raise ConfigError("tls_key and tls_cert need each other: give both, or none for HTTP")
    for path in (settings.tls_key, settings.tls_cert):
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read for TLS: {error.strerror}") from None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # With a password Python does not ask the terminal for that of an encrypted key.
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="none")
    except (ssl.SSLError, ValueError, OSError) as error:
        raise ConfigError(
            f"{settings.tls_cert}, {settings.tls_key}: not a certificate and its key, not "
            f"encrypted, as PEM: {error}"
        ) from None
    return context


def bind(settings: ServeSettings) -> socket.socket:
    """A socket at the address of the settings that does not listen yet.

    Raises:
        ConfigError: as `find_address`.
        ServeError: the port is in use, or this user may not have it.
    """
    family, address = find_address(settings)
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((address, settings.port))
    except OSError as error:
        found.close()
        raise ServeError(
            f"cannot listen at {address}, port {settings.port}: {error.strerror}; choose another "
            "host or port, or end the program that has it"
        ) from None
    return found


def serve(
    app: ASGIApp,
    settings: ServeSettings,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    hooks: Hooks,
) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Then no new connections are accepted and running answers have `settings.drain` seconds; a second
    signal ends them at once. To be called in the main thread. Closes `listener`.

    Raises:
        ServeError: the app could not start, or another program listens there; `hooks.alive` was
            False, and the server has ended as after SIGTERM.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    server = _Server(config, settings, listener, tls, hooks)
    with listener:
        asyncio.run(server.serve())
    if server.died:
        raise ServeError("the engine has ended; the lines above say why: start the server again")


class _Server(uvicorn.Server):
    """Uvicorn's server with our own beginning and end."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: ServeSettings,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        hooks: Hooks,
    ) -> None:
        super().__init__(config)
        self._settings = settings
        self._listener = listener
        self._tls = tls
        self._hooks = hooks
        self.died = False  # it ends although nobody told it to

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals in the event loop, where nothing else is half done."""
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGINT: self._end,
            signal.SIGTERM: self._end,
            signal.SIGHUP: self._hooks.on_reload,
        }
        hang_up = signal.getsignal(signal.SIGHUP)
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
            signal.signal(signal.SIGHUP, hang_up)

    def _end(self) -> None:
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        self._hooks.on_drain()

    async def on_tick(self, counter: int) -> bool:
        """Whether to end, asked ten times a second until then."""
        if counter % _TICKS == 0 and not self.should_exit and not self._hooks.alive():
            _log.error("the engine has ended: no request can be answered, and so the server ends")
            self.died = True
            self._end()
        self._hooks.on_tick()
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then listen."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise ServeError("the server could not start; the lines above say why")
        limits = self._settings
        handshake_s = min(limits.header_timeout, _HANDSHAKE_S)

        def connect() -> Connection:
            return Connection(
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
                max_connections=limits.max_connections,
                header_timeout=limits.header_timeout,
            )

        try:
            listening = await asyncio.get_running_loop().create_server(
                connect,
                sock=self._listener,
                ssl=self._tls,
                ssl_handshake_timeout=handshake_s if self._tls else None,
                backlog=2 * limits.max_connections,
            )
        except OSError as error:  # another socket of this address listens already
            raise ServeError(f"cannot listen: {error.strerror}; choose another port") from None
        self.servers = [listening]
        self.started = True
        self._hooks.ready(self._url())

    def _url(self) -> str:
        address, port = self._listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        return f"{'https' if self._tls else 'http'}://{shown}:{port}"

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers finish, then close what is left, and end the app."""
        state, loop = self.server_state, asyncio.get_running_loop()
        for listening in self.servers:
            listening.close()
        for connection in list(state.connections):
            connection.shutdown()
        ends = loop.time() + self._settings.drain
        while (state.connections or state.tasks) and not self.force_exit and loop.time() < ends:
            self._hooks.on_tick()
            await asyncio.sleep(0.05)
        if state.connections:
            _log.warning("%d connections are cut off", len(state.connections))
        for connection in list(state.connections):
            connection.transport.abort()
        if state.tasks:  # they see that their client is gone
            await asyncio.wait(state.tasks, timeout=_CLOSING_S)
        await self.lifespan.shutdown()
