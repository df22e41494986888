# SPDX-License-Identifier: Apache-2.0
"""Standard input, output and error as a shell may leave them: closed, full, or of odd encodings."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TextIO

STDOUT = "standard output"


class _Output(io.TextIOWrapper):
    """Stdout whose errors say where they are from; what it cannot encode becomes "?"."""

    @classmethod
    def of(cls, stream: io.TextIOWrapper) -> "_Output":
        """Take the place of `stream`."""
        encoding, by_line, through = stream.encoding, stream.line_buffering, stream.write_through
        return cls(
            stream.detach(), encoding, "replace", line_buffering=by_line, write_through=through
        )

    def write(self, text: str) -> int:
        """Raises OSError with the name of the stream."""
        with _named(STDOUT):
            return super().write(text)

    def flush(self) -> None:
        """Raises OSError with the name of the stream."""
        with _named(STDOUT):
            super().flush()


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error


def prepare_streams() -> None:
    """Make all three usable, or fail as files do, before anything else is opened."""
    # Otherwise the next file opened would be standard output. Opened the wrong way round, what was
    # closed fails when it is used; messages to a closed stderr are dropped.
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, mode), number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            raw = io.FileIO(number, "w" if number else "r", closefd=False)
            binary = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
            setattr(sys, name, io.TextIOWrapper(binary, encoding="utf-8"))
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = sys.__stdout__ = _Output.of(sys.stdout)  # type: ignore[misc]


def discard(stream: TextIO) -> None:
    """Send what is still to be written nowhere: Python would complain when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except OSError:  # a stream of a test, without a descriptor
        pass
    finally:
        os.close(nowhere)


def reading_stdin() -> AbstractContextManager[None]:
    """Let OSError say that it is about standard input, which may be closed."""
    return _named("standard input")


def decoded(name: str, text: str) -> str:
    """`text` as it is.

    Raises:
        ValueError: bytes of it could not be decoded; the message begins with `name`.
    """
    for at, character in enumerate(text):
        if "\udc80" <= character <= "\udcff":
            raise ValueError(f"{name}: byte 0x{ord(character) - 0xDC00:02x} at {at} is not text")
    return text
