# SPDX-License-Identifier: Apache-2.0
"""Exit codes: 0 done, 1 a typed error (one line, no traceback), 2 wrong usage, 130 interrupted."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from adapmoe.errors import AdapmoeError

RUNTIME_ERROR = 1
USAGE_ERROR = 2
INTERRUPTED = 130


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what may happen to any verb into one line on stderr and an exit code."""
    try:
        yield
    except AdapmoeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(RUNTIME_ERROR) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error
    except BrokenPipeError as error:
        _discard_stdout()
        raise typer.Exit(RUNTIME_ERROR) from error


@contextmanager
def usage_errors() -> Iterator[None]:
    """A setting with a wrong value is wrong usage, unless it is a typed error."""
    try:
        yield
    except AdapmoeError:
        raise
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(USAGE_ERROR) from error


def _discard_stdout() -> None:
    """The reader of stdout is gone; without this, Python complains when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
