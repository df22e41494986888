# SPDX-License-Identifier: Apache-2.0
"""From a configuration to a server that runs, and to its end."""

import functools
import logging
import os
import signal
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from adapmoe.serve.config import Config, ConfigError
from adapmoe.serve.keys import Keys
from adapmoe.serve.open_files import allow_open_files
from adapmoe.serve.protection import protect
from adapmoe.serve.server import Hooks, bind, find_address, load_tls, serve
from adapmoe.serve.supervisor import Supervisor

_log = logging.getLogger("adapmoe")


@dataclass(frozen=True)
class OpenApp:
    """An app with an open model behind it.

    Attributes:
        app: answers requests, which have passed all checks; `scope["state"]["key"]` is the name of
            the API key, "" without keys. Has a lifespan.
        begin_drain: called in the event loop when the server was told to end: from now on no new
            requests are taken, and those that run may finish.
        alive: whether the model can answer at all; called in the event loop, about once a second.
        pulse: changes whenever a request gets on; None while there are none. Called likewise, ten
            times a second.
    """

    app: ASGIApp
    begin_drain: Callable[[], None]
    alive: Callable[[], bool]
    pulse: Callable[[], object]


AppOpener = Callable[[Config], AbstractContextManager[OpenApp]]


@dataclass(frozen=True)
class Secrets:
    """What files that the configuration names hold."""

    keys: Keys | None
    tls: ssl.SSLContext | None


def read_secrets(config: Config) -> Secrets:
    """Read API keys and certificate, and see that the host may be listened at.

    Raises:
        ConfigError: they cannot be used, or a server without keys would be open to others.
    """
    find_address(config.serve)
    keys = None if config.serve.keys is None else Keys.of_file(Path(config.serve.keys))
    return Secrets(keys, load_tls(config.serve))


def start(config: Config, open_app: AppOpener, ready: Callable[[str], None]) -> None:
    """Serve a pack until SIGTERM or SIGINT.

    All that can be wrong with address, keys and certificate is found before the pack is opened.
    From now on SIGHUP ends the process no more.

    Args:
        config: what `read_config` made.
        open_app: opens the pack; closing what it returns closes the pack.
        ready: called with the URL once requests are answered.

    Raises:
        ConfigError: as `read_secrets`; too few files may be open for `max_connections`.
        ServeError: the port is in use or not allowed, the app could not start, or the model can
            answer no more.
    """
    secrets = read_secrets(config)
    allow_open_files(config.serve.max_connections)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server listens, and at its end
    supervisor = Supervisor(os.environ)
    supervisor.status(f"opening {config.pack}")
    with bind(config.serve) as listener, open_app(config) as opened:
        keys = secrets.keys
        if keys is not None:
            keys.read_again()  # nobody heard a SIGHUP while the pack was opened
        app = protect(opened.app, config.serve, None if keys is None else keys.find)

        def listening(url: str) -> None:
            supervisor.ready(url)
            ready(url)

        def drain() -> None:
            supervisor.stopping()
            opened.begin_drain()

        hooks = Hooks(
            ready=listening,
            on_drain=drain,
            on_reload=functools.partial(_reload, keys),
            alive=opened.alive,
            on_tick=lambda: supervisor.feed(opened.pulse()),
        )
        serve(app, config.serve, listener, secrets.tls, hooks)


def _reload(keys: Keys | None) -> None:
    """Take the API keys that the file has now; what is wrong with them ends no server."""
    if keys is None:
        _log.warning("SIGHUP changes nothing: the server was started without API keys")
        return
    try:
        keys.read_again()
    except ConfigError as error:
        _log.error("the API keys stay as they were: %s", error)
    else:
        _log.warning("the API keys were read again: %s", ", ".join(keys.names))
