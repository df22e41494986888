# SPDX-License-Identifier: Apache-2.0
"""From a configuration to a server that runs, and to its end."""

import functools
import logging
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from adapmoe.serve.config import Config, ConfigError
from adapmoe.serve.keys import Keys
from adapmoe.serve.protection import protect
from adapmoe.serve.server import Hooks, bind, find_address, load_tls, serve

_log = logging.getLogger("adapmoe")


@dataclass(frozen=True)
class OpenApp:
    """An app with an open model behind it.

    Attributes:
        app: answers requests, which have passed all checks; `scope["state"]["key"]` is the name of
            the API key, "" without keys. Has a lifespan.
        begin_drain: called in the event loop when the server was told to end: from now on no new
            requests are taken, and those that run may finish.
    """

    app: ASGIApp
    begin_drain: Callable[[], None]


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

    Args:
        config: what `read_config` made.
        open_app: opens the pack; closing what it returns closes the pack.
        ready: called with the URL once requests are answered.

    Raises:
        ConfigError: as `read_secrets`.
        ServeError: the port is in use or not allowed, or the app could not start.
    """
    secrets = read_secrets(config)
    with bind(config.serve) as listener, open_app(config) as opened:
        keys = secrets.keys
        reload = None if keys is None else functools.partial(_reload, keys)
        app = protect(opened.app, config.serve, None if keys is None else keys.find)
        hooks = Hooks(ready, opened.begin_drain, reload)
        serve(app, config.serve, listener, secrets.tls, hooks)


def _reload(keys: Keys) -> None:
    """Take the API keys that the file has now; what is wrong with them ends no server."""
    try:
        keys.read_again()
    except ConfigError as error:
        _log.error("the API keys stay as they were: %s", error)
    else:
        _log.warning("the API keys were read again: %s", ", ".join(keys.names))
