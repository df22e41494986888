# SPDX-License-Identifier: Apache-2.0
"""Files that are replaced whole or not at all, and small caches that may be missing."""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapmoe.errors import AdapmoeError, PackError
from adapmoe.pack.manifest import manifest_sha256


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
    except (OSError, ValueError) as error:
        raise PackError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise PackError(f"{path}: expected a JSON object")
    return value


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/adapmoe`, or `~/.cache/adapmoe`.

    Raises:
        RuntimeError: there is no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification says that relative paths are to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "adapmoe"


def write_cached(path: Path, content: dict[str, Any]) -> None:
    """Replace `path` at once, making its folder if need be. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name[:16])
    partial = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(content, file, allow_nan=False)
        partial.replace(path)  # no fsync: after a power cut an old or empty one will do
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


_CHUNK_BYTES = 8 << 20


def check_header(
    found: Any,
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
