# SPDX-License-Identifier: Apache-2.0
"""Reading a file as the runtime does: past the page cache, into private memory with huge pages."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_HUGE_PAGE = 2 << 20


def open_direct(path: Path) -> tuple[int, bool]:
    """Open for reading.

    Returns:
        The descriptor, and whether the page cache is bypassed.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT), True
    except OSError:  # tmpfs and some overlays
        return os.open(path, os.O_RDONLY), False


@contextmanager
def read_buffer(size: int) -> Iterator[memoryview]:
    """Memory of `size` bytes, page-aligned, as O_DIRECT wants it.

    Private and advised to have huge pages, like the runtime's arena: into the small pages of shared
    memory the same reads can take twice as long.
    """
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size + _HUGE_PAGE, flags=private) as mapping:
        with suppress(OSError):
            mapping.madvise(mmap.MADV_HUGEPAGE)
        with memoryview(mapping)[:size] as buffer:
            yield buffer
