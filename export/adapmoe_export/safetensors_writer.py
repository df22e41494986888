# SPDX-License-Identifier: Apache-2.0
"""Writes a safetensors file sequentially, its data buffer on a 4 KiB boundary.

The safetensors library takes all tensors at once and aligns to 8 bytes only; a pack needs neither
its memory use nor its alignment.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from adapmoe_export.tiling import PAGE_BYTES, align_up


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file that is about to be written."""

    name: str
    dtype: str  # as safetensors spells it: "U8", "F32"
    shape: tuple[int, ...]
    nbytes: int


def make_header(entries: Sequence[TensorEntry]) -> bytes:
    """Length and JSON header, padded with spaces to a multiple of 4 KiB."""
    header: dict[str, Any] = {}
    offset = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(align_up(8 + len(text), PAGE_BYTES) - 8)
    return len(text).to_bytes(8, "little") + text


class SafetensorsWriter:
    """A context manager: write the tensors' bytes in the order of `entries`, in any pieces.

    Leaving it syncs the file; `nbytes` and `sha256` then describe it.
    """

    def __init__(self, path: Path, entries: Sequence[TensorEntry]) -> None:
        """Create `path`, which must not exist, and write its header."""
        header = make_header(entries)
        self.path = path
        self.nbytes = 0
        self._expected = len(header) + sum(entry.nbytes for entry in entries)
        self._hash = hashlib.sha256()
        self._file = path.open("xb")
        self._write(header)

    def write(self, data: NDArray[Any]) -> None:
        """Append the bytes of a C-contiguous array."""
        self._write(data.data.cast("B"))

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.nbytes += len(data)

    @property
    def sha256(self) -> str:
        """Lowercase hex digest of everything written so far."""
        return self._hash.hexdigest()

    def __enter__(self) -> "SafetensorsWriter":
        """Nothing to do: the file is open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; on success, sync and check that every tensor was written."""
        with self._file:
            if kind is None:
                if self.nbytes != self._expected:
                    raise AssertionError(f"wrote {self.nbytes} bytes, announced {self._expected}")
                self._file.flush()
                os.fsync(self._file.fileno())
