# SPDX-License-Identifier: Apache-2.0
"""A file to try reading on: the pack's experts, or a small file made for the purpose."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapmoe.direct_read import open_direct, read_buffer

_BYTES = 4096


@contextmanager
def probe_file(folder: Path) -> Iterator[Path]:
    """A file of at least 4 KiB in `folder`; removed again if it was made here.

    Raises:
        OSError: there is none, and none can be made.
    """
    experts = folder / "experts.safetensors"
    if experts.is_file():
        yield experts
        return
    descriptor, name = tempfile.mkstemp(prefix=".adapmoe-doctor-", dir=folder)
    try:
        try:
            os.write(descriptor, bytes(_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def reads_direct(path: Path) -> bool:
    """Whether a read past the page cache works: not only opening, which some allow in vain.

    Raises:
        OSError: not even an ordinary read works.
    """
    descriptor, direct = open_direct(path)
    try:
        with read_buffer(_BYTES) as buffer:
            try:
                os.preadv(descriptor, [buffer], 0)
            except OSError:
                if not direct:
                    raise
                return False
    finally:
        os.close(descriptor)
    return direct
