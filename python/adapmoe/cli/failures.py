# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong becomes one line on stderr and an exit code."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from adapmoe.cli.streams import STDOUT, discard
from adapmoe.errors import AdapmoeError

RUNTIME_ERROR = 1
USAGE_ERROR = 2
INTERRUPTED = 130

TRACEBACK = "ADAPMOE_TRACEBACK"  # set in the environment: show where an error comes from


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the process with SystemExit: 1 for an error, 130 for Ctrl-C."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # a full disk shows here at last
    except SystemExit:
        raise
    except BaseException as error:
        raise SystemExit(report(error)) from None


@contextmanager
def usage_errors() -> Iterator[None]:
    """A value that a check refuses is wrong usage, unless it is a typed error."""
    try:
        yield
    except AdapmoeError:
        raise
    except (TypeError, ValueError) as error:
        fail(_as_typed(error))
        raise SystemExit(USAGE_ERROR) from error


def fail(message: str) -> None:
    """Print to stderr, as far as that can be written to; lists of problems have several lines."""
    shown = "\n".join(map(one_line, message.split("\n")))
    try:
        print(f"error: {shown}", file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def as_one_line(error: BaseException) -> str:
    """Parameters named as options, nothing that a terminal would obey."""
    return one_line(_as_typed(error))


def one_line(text: str) -> str:
    """`text` with what a terminal would obey or could not show, such as newlines, as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def report(error: BaseException) -> int:
    """Say on stderr what went wrong; the exit code for it."""
    if os.environ.get(TRACEBACK):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, OSError) and error.filename == STDOUT:
        discard(sys.stdout)
    if not isinstance(error, BrokenPipeError):  # a reader that left, such as `head`, wants no word
        fail(_describe(error))
    return RUNTIME_ERROR


def _describe(error: BaseException) -> str:
    if isinstance(error, AdapmoeError):
        return _as_typed(error)
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        return where + (error.strerror or str(error))
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, RecursionError):
        return f"nested too deeply: {error}"
    if isinstance(error, UnicodeError):
        return f"text that cannot be read or written: {error}"
    if isinstance(error, ImportError):
        return f"this installation is broken: {error}; install adapmoe again"
    return (
        f"a bug in adapmoe: {type(error).__name__}: {error} (please report it, with what "
        f"{TRACEBACK}=1 in the environment makes it print)"
    )


def _as_typed(error: BaseException) -> str:
    from adapmoe.cli.names import as_typed  # not for help, which needs no NumPy

    return as_typed(str(error))
