# SPDX-License-Identifier: Apache-2.0
"""A memory cgroup that a child process runs in, and files that leave the page cache before."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

V1 = Path("/sys/fs/cgroup/memory")
# Joins the group before the program starts, so that all that the program uses is charged to it.
JOIN = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"']


class CgroupUnavailable(Exception):
    """Why no group can be made here."""


class CachedPages(Exception):
    """Pages of a file stay in the page cache."""


class MemoryCgroup:
    """Limits what its processes use, page cache counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, command: list[str]) -> list[str]:
        """The command that runs `command` inside the group."""
        return [*JOIN, str(self.folder), *command]

    def largest_usage(self) -> int:
        """Bytes, page cache included."""
        return int((self.folder / "memory.max_usage_in_bytes").read_text())


@contextmanager
def memory_cgroup(limit: int) -> Iterator[MemoryCgroup]:
    """A group of `limit` bytes, removed afterwards. Raises CgroupUnavailable."""
    if os.geteuid() != 0:
        raise CgroupUnavailable("rows with a memory limit need root, to make a memory cgroup")
    if not (V1 / "memory.limit_in_bytes").exists():
        raise CgroupUnavailable(f"{V1}: there is no memory controller of cgroup v1")
    folder = V1 / f"adapmoe-bench-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "memory.limit_in_bytes").write_text(str(limit))
        with suppress(OSError):  # absent where swap is not accounted
            (folder / "memory.memsw.limit_in_bytes").write_text(str(limit))
        yield MemoryCgroup(folder)
    finally:
        (folder / "memory.force_empty").write_text("0")
        folder.rmdir()


def drop_from_page_cache(files: list[Path]) -> None:
    """So that their pages are read again, and charged to who reads them.

    Raises CachedPages when pages stay, which somebody else has mapped or locked.
    """
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        share = cached_share(path)
        if share > 0.01:
            raise CachedPages(f"{path}: {share:.0%} stays in the page cache; who else uses it?")


def cached_share(path: Path) -> float:
    """Share of a file's pages that the page cache holds."""
    size = path.stat().st_size
    if size == 0:
        return 0.0
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as mapping:
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        anchor = ctypes.c_char.from_buffer(mapping)
        failed = libc.mincore(
            ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(size), pages
        )
        del anchor
        if failed:
            raise OSError(ctypes.get_errno(), "mincore", str(path))
    return sum(page & 1 for page in bytes(pages)) / len(pages)
