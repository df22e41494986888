# SPDX-License-Identifier: Apache-2.0
"""Files that are replaced whole or not at all, and small caches that may be missing."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from adapmoe.errors import PackError

_log = logging.getLogger("adapmoe")

_CHUNK_BYTES = 8 << 20
MOST_TEXT_BYTES = 256 << 20  # no model reads more in a day
_MAX_RECORD_BYTES = 4 << 20  # larger files are not ours

Record = TypeVar("Record")


def replace_file(path: Path, data: bytes) -> None:
    """Readers see the old file or the new one, whole, at any moment. Raises OSError."""
    # Not temporary_path(): threads, and containers with the same process id, may share the folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Where another process of ours writes the next `path`, in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def write_output(path: Path, data: bytes) -> None:
    """Write a file that the user named: a device or a pipe is written to, all else replaced.

    Raises OSError.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        replace_file(path.resolve(), data)


def publish(temporary: Path, path: Path) -> None:
    """Rename a file that is synced already, and sync the name. Raises OSError."""
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path) -> str:
    """The text of a file that the user named.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too long or not UTF-8; the message has the path.
    """
    with path.open("rb") as file:
        data = file.read(MOST_TEXT_BYTES + 1)
    if len(data) > MOST_TEXT_BYTES:
        raise text_too_long(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8 text"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_too_long(name: object) -> ValueError:
    """The error for a text without end, such as that of /dev/zero."""
    return ValueError(f"{name}: longer than {MOST_TEXT_BYTES >> 20} MiB; give a shorter text")


def check_writable(path: Path) -> None:
    """Find out now whether a file can be written later; what is there stays as it is.

    Raises:
        ValueError: it cannot; the message has the path.
    """
    try:
        existed = path.exists()
        if existed and not path.is_file():
            raise ValueError(f"{path}: exists and is not a regular file; name another")
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
        if not os.access(path.resolve().parent, os.W_OK):  # write_output replaces it there
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror}; name another") from None


def file_sha256(path: Path) -> str:
    """64 hex digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(_CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create `folder` and hold its lock, which ends with this process however that ends.

    What an earlier run left half written is removed first.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for leftover in folder.glob(".*.[0-9]*"):  # as replace_file and temporary_path name them
            leftover.unlink()
        yield
    finally:
        os.close(descriptor)


def cached_path(name: str) -> Path | None:
    """Where a record is kept: in `$XDG_CACHE_HOME/adapmoe`, or `~/.cache/adapmoe`.

    None if there is no home directory.
    """
    import platformdirs

    try:
        folder = platformdirs.user_cache_path("adapmoe", appauthor=False)
    except RuntimeError:  # HOME is unset, and this user is not in /etc/passwd
        return None
    return folder / name if folder.is_absolute() else None


def read_cached(name: str, kind: type[Record]) -> Record | None:
    """The record of that name.

    Args:
        name: of its file.
        kind: a msgspec.Struct; its fields, and a Literal for its version, say what is valid.

    Returns:
        None where there is none, or it is damaged, or of another version.
    """
    path = cached_path(name)
    if path is None:
        return None
    try:
        if not path.is_file() or path.stat().st_size > _MAX_RECORD_BYTES:
            return None
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        _log.debug("%s is ignored: %s", path, error)
        return None


def write_cached(name: str, record: msgspec.Struct) -> bool:
    """Replace the record of that name; whether that could be done."""
    path = cached_path(name)
    if path is None:
        _log.debug("%s is not kept: there is no home directory", name)
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, msgspec.json.encode(record))
    except OSError as error:
        _log.debug("%s is not kept: %s", path, error)
        return False
    return True


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """Read a JSON object; {} for a missing file that is not `required`.

    Raises:
        PackError: it is missing, cannot be read, or is not an object.
    """
    if not required and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PackError(
            f"{path}: missing; the pack has no tokenizer, use token ids instead"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise PackError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise PackError(f"{path}: expected a JSON object")
    return value
