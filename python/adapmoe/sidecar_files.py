# SPDX-License-Identifier: Apache-2.0
"""Files beside the weights of a pack: each is the old one or the new one, whole, at any moment."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapmoe.errors import AdapmoeError
from adapmoe.geometry import manifest_sha256

_CHUNK_BYTES = 8 << 20


def check_header(
    found: Any,  # noqa: ANN401
    path: Path,
    pack: Path,
    kind: tuple[str, int],
    *,
    subject: str,
    remedy: str,
    error: type[AdapmoeError],
) -> None:
    """Raise `error` unless `found`, the JSON of `path`, is of this format, version and pack.

    For its message: `subject` comes before "of another pack"; `remedy` is what to do.
    """
    header = (found.get("format"), found.get("format_version")) if isinstance(found, dict) else ()
    if header != kind:
        raise error(f"{path}: is not {kind[0]} version {kind[1]}; {remedy}")
    expected = manifest_sha256(pack)
    if found.get("manifest_sha256") != expected:
        raise error(
            f"{path}: {subject} of another pack, with manifest.json of SHA-256 "
            f"{found.get('manifest_sha256')}, here it is {expected}; {remedy}"
        )


def replace_file(path: Path, data: bytes) -> None:
    """Readers see the old file or the new one, whatever happens meanwhile. Raises OSError."""
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Where the next `path` is written, in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def publish(temporary: Path, path: Path) -> None:
    """Rename a file that is synced already, and sync the name. Raises OSError."""
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """64 hex digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(_CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create `folder`, hold its lock, which ends with this process however that ends.

    What an earlier run left half written is removed first.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for leftover in folder.glob(".*.[0-9]*"):  # as temporary_path names them
            leftover.unlink()
        yield
    finally:
        os.close(descriptor)
