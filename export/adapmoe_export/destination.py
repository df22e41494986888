# SPDX-License-Identifier: Apache-2.0
"""A directory that appears complete or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapmoe_export.errors import ExportError


@contextmanager
def staged_directory(out: Path, overwrite: bool, needed_bytes: int) -> Iterator[Path]:
    """Yield the empty directory `OUT.partial`; on success it is synced and becomes `out`.

    On failure it is removed and `out` is as it was. What a killed export left there is removed
    first. Raises ExportError if `out` exists (without `overwrite`), is not a pack, or if the disk
    has no room for `needed_bytes`.
    """
    out = out.absolute()
    _check_existing(out, overwrite)
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
    except OSError as error:
        raise ExportError(f"{partial}: cannot write there: {error.strerror}") from error
    try:
        _check_room(partial, needed_bytes)
        yield partial
        sync_directory(partial)
        _publish(partial, out, overwrite)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_existing(out: Path, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise ExportError(f"{out}: exists already; choose another name or pass --overwrite")
    # Overwriting deletes a directory: never one that is something else.
    if out.is_symlink() or not (out / "manifest.json").is_file():
        raise ExportError(f"{out}: is not a pack, so --overwrite does not replace it; remove it")


def _check_room(directory: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise ExportError(
            f"{directory.parent}: the pack needs {needed_bytes} bytes "
            f"({needed_bytes / 2**30:.2f} GiB), but only {free} are free; "
            "make room or choose another disk"
        )


def _publish(partial: Path, out: Path, overwrite: bool) -> None:
    _check_existing(out, overwrite)
    replaced = out.with_name(out.name + ".replaced")
    had_old = out.exists()
    if had_old:
        if replaced.exists():
            shutil.rmtree(replaced)
        out.rename(replaced)
    try:
        partial.rename(out)
    except OSError:
        if had_old:
            replaced.rename(out)
        raise
    sync_directory(out.parent)
    if had_old:
        shutil.rmtree(replaced)
