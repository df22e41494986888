# SPDX-License-Identifier: Apache-2.0
"""`adapmoe serve`: answer requests over HTTP."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from adapmoe.cli.failures import USAGE_ERROR, fail
from adapmoe.cli.options import GivenOptions, with_options
from adapmoe.pack.manifest import Manifest
from adapmoe.serve.config import Config, ConfigError, describe_config, read_config
from adapmoe.serve.settings import SERVER


@with_options()
def serve(
    pack: Annotated[
        str | None,
        typer.Argument(
            metavar="PACK", help="The pack, a directory NAME.adapmoe.", show_default=False
        ),
    ] = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read options here, TOML; the environment and flags are stronger.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    check_config: Annotated[
        bool,
        typer.Option(
            "--check-config",
            help="Print the whole configuration as TOML and end.",
            rich_help_panel=SERVER,
        ),
    ] = False,
    given: GivenOptions,
) -> None:
    """Serve a model over HTTP to clients of OpenAI's and Anthropic's APIs.

    Every option can stand in a TOML file, by its name with _ for -, and in the environment, as
    ADAPMOE_MAX_CONTEXT for --max-context; an empty variable takes back what the file says. SIGTERM
    lets running answers finish; SIGHUP reads the API keys again.

    Examples:
      adapmoe serve mixtral-instruct.adapmoe --memory 12GiB
      adapmoe serve mixtral-instruct.adapmoe --host 0.0.0.0 --keys /etc/adapmoe/keys
      adapmoe serve --config /etc/adapmoe/serve.toml --check-config
    """
    try:
        found = read_config(config, os.environ, {"pack": pack, **given})
        if check_config:
            _check(found)
        else:
            _start(found)
    except ConfigError as error:  # names file, variable or option as they were written
        fail(str(error))
        raise typer.Exit(USAGE_ERROR) from error


def _check(config: Config) -> None:
    """Read all that is read before the pack is opened, and print the configuration."""
    with _needs_extra():
        from adapmoe.serve.start import read_secrets
    read_secrets(config)
    Manifest.read(config.pack)
    typer.echo(describe_config(config), nl=False)


def _start(config: Config) -> None:
    with _needs_extra():
        from adapmoe.serve.app import open_app
        from adapmoe.serve.start import start
    start(config, open_app, lambda url: typer.echo(f"{config.model_name} is served at {url}"))


@contextmanager
def _needs_extra() -> Iterator[None]:
    """Say which package is missing, and how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing == "adapmoe":
            raise  # a broken installation, not a missing extra
        fail(
            f"the server needs the Python package {missing!r}, which is missing: "
            "pip install 'adapmoe[serve]'"
        )
        raise typer.Exit(USAGE_ERROR) from error
