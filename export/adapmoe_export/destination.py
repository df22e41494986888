# SPDX-License-Identifier: Apache-2.0
"""A pack that appears complete or not at all, and may be finished by a later run."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapmoe.errors import CheckpointError
from adapmoe.machine.files import sync_folder
from adapmoe_export.errors import ExportError
from adapmoe_export.journal import has_entries


@dataclass(frozen=True)
class Staging:
    """The directory `OUT.partial`, which is never a pack itself."""

    root: Path

    @property
    def pack(self) -> Path:
        """What becomes OUT."""
        return self.root / "pack"

    @property
    def journal(self) -> Path:
        """What of it is finished."""
        return self.root / "journal"


def partial_path(out: Path) -> Path:
    """Where an unfinished export of `out` is kept."""
    out = out.absolute()
    return out.with_name(out.name + ".partial")


@contextmanager
def staged_directory(
    out: Path, overwrite: bool, needed_bytes: int, fresh: bool = False
) -> Iterator[Staging]:
    """Yield the locked staging directory; on success its pack is synced and becomes `out`.

    On failure `out` is unchanged. Finished work stays for the next run, unless the checkpoint is at
    fault: a corrected one could not use it. Raises ExportError if `out` exists (without
    `overwrite`), is not a pack or is being written, or if the disk has no room for `needed_bytes`.
    """
    out = out.absolute()
    _check_existing(out, overwrite)
    with _locked(partial_path(out)) as root:
        staging = Staging(root)
        try:
            _restore_replaced(out)
            _check_existing(out, overwrite)
            if fresh or not has_entries(staging.journal):
                _empty(root)
            staging.pack.mkdir(exist_ok=True)
            _remove_small_files(staging.pack)
            _check_room(root, needed_bytes)
            yield staging
            sync_folder(staging.pack)
            _publish(staging.pack, out, overwrite)
        except BaseException as error:
            kept = not isinstance(error, CheckpointError) and has_entries(staging.journal)
            if not kept:
                shutil.rmtree(root, ignore_errors=True)
            if isinstance(error, OSError):
                raise _write_failure(root, error, needed_bytes, kept) from error
            raise
        shutil.rmtree(root, ignore_errors=True)


def _write_failure(root: Path, error: OSError, needed_bytes: int, kept: bool) -> ExportError:
    remedy = f"the pack needs {needed_bytes} bytes ({needed_bytes / 2**30:.2f} GiB) there"
    if kept:
        remedy += (
            "; what is finished is kept: run the same command again to resume, "
            "or with --fresh to start over"
        )
    return ExportError(f"{error.filename or root}: cannot write: {error.strerror}; {remedy}")


@contextmanager
def _locked(root: Path) -> Iterator[Path]:
    """Create the directory and hold its lock, which ends with this process however that ends."""
    try:
        descriptor = _lock(root)
    except OSError as error:
        raise ExportError(f"{root}: cannot write there: {error.strerror}") from error
    try:
        yield root
    finally:
        os.close(descriptor)


def _lock(root: Path) -> int:
    while True:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The export that held it may have removed the directory since.
            if root.exists() and os.path.samestat(root.stat(), os.fstat(descriptor)):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise ExportError(
                f"{root}: another export is writing this pack; wait for it or choose another name"
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _empty(root: Path) -> None:
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _remove_small_files(pack: Path) -> None:
    """They are written last and quickly. Those of an older checkpoint must not stay."""
    for path in pack.iterdir():
        if path.suffix != ".safetensors":
            path.unlink()


def _check_existing(out: Path, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise ExportError(f"{out}: exists already; choose another name or pass --overwrite")
    # Overwriting deletes a directory: never one that is something else.
    if out.is_symlink() or not (out / "manifest.json").is_file():
        raise ExportError(f"{out}: is not a pack, so --overwrite does not replace it; remove it")


def _check_room(root: Path, needed_bytes: int) -> None:
    present = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    missing = max(needed_bytes - present, 0)
    free = shutil.disk_usage(root).free
    if free < missing:
        raise ExportError(
            f"{root.parent}: the pack needs {missing} bytes "
            f"({missing / 2**30:.2f} GiB), but only {free} are free; "
            "make room or choose another disk"
        )


def _replaced_path(out: Path) -> Path:
    return out.with_name(out.name + ".replaced")


def _restore_replaced(out: Path) -> None:
    """A kill between the two renames of _publish left the old pack under another name."""
    replaced = _replaced_path(out)
    if (replaced / "manifest.json").is_file() and not os.path.lexists(out):
        replaced.rename(out)


def _publish(pack: Path, out: Path, overwrite: bool) -> None:
    _check_existing(out, overwrite)
    replaced = _replaced_path(out)
    had_old = out.exists()
    if had_old:
        if replaced.exists():
            shutil.rmtree(replaced)
        out.rename(replaced)
    try:
        pack.rename(out)
    except OSError:
        if had_old:
            replaced.rename(out)
        raise
    sync_folder(out.parent)
    if had_old:
        shutil.rmtree(replaced)
