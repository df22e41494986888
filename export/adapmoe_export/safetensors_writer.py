# SPDX-License-Identifier: Apache-2.0
"""Writes a safetensors file from its first byte to its last, resuming where an export was killed.

The safetensors library takes all tensors at once and aligns to 8 bytes only; a pack needs neither
its memory use nor its alignment.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe_export.journal import Journal, JournalEntry
from adapmoe_export.safetensors_file import TensorEntry, make_header


class SafetensorsWriter:
    """A context manager: `resume()`, then write the tensors that are not `done`, in order.

    Leaving it syncs the file; `nbytes` and `sha256` then describe it.
    """

    def __init__(
        self,
        path: Path,
        tensors: Sequence[TensorEntry],
        journal: Journal,
        progress: Callable[[int], None] = lambda nbytes: None,
    ) -> None:
        """Open or create `path`. `progress` gets the bytes of the file that are in place."""
        self.path = path
        self.nbytes = 0
        self.done: list[JournalEntry] = []  # tensors in place, in order
        self._tensors = tensors
        self._journal = journal
        self._progress = progress
        self._hash = hashlib.sha256()
        self._file = path.open("r+b" if path.exists() else "x+b", buffering=0)
        self._pieces: list[tuple[int, int]] = []  # of the tensor that is being written

    def resume(self) -> None:
        """Keep the tensors that the journal records and whose bytes are as it says; cut the rest.

        Every kept byte is read again: it is in the digest, and may not be what was written.
        """
        recorded = self._journal.of(self.path.name)
        header = make_header(self._tensors)
        if self._read(len(header)) == header:
            self._count(header)
            for tensor, entry in zip(self._tensors, recorded, strict=False):
                if not self._is_intact(tensor, entry):
                    break
                self.done.append(entry)
        if len(self.done) < len(recorded):
            self._journal.forget(recorded[len(self.done) :])
        self._file.seek(self.nbytes)
        self._file.truncate()
        if self.nbytes == 0:
            self._write(header)

    def _is_intact(self, tensor: TensorEntry, entry: JournalEntry) -> bool:
        """Whether the next bytes are those of `tensor`. They are counted only if they are."""
        if entry.tensor != tensor.name or sum(n for n, _ in entry.pieces) != tensor.nbytes:
            return False
        digest, end = self._hash.copy(), self.nbytes
        for nbytes, crc32c in entry.pieces:
            data = self._read(nbytes)
            if len(data) != nbytes or _core.crc32c(np.frombuffer(data, np.uint8)) != crc32c:
                self._hash, self.nbytes = digest, end
                return False
            self._count(data)
        return True

    def write(self, data: NDArray[np.uint8]) -> None:
        """Append a piece of the current tensor."""
        self._write(data.data)
        self._pieces.append((data.size, _core.crc32c(data)))

    def finish_tensor(self, errors: list[tuple[str, float, float]]) -> None:
        """Record the tensor whose pieces were written since the last one."""
        tensor = self._tensors[len(self.done)]
        written = sum(nbytes for nbytes, _ in self._pieces)
        if written != tensor.nbytes:
            raise AssertionError(f"{tensor.name}: {written} bytes, announced {tensor.nbytes}")
        entry = JournalEntry(self.path.name, tensor.name, self._pieces, errors)
        self._journal.append(entry)
        self.done.append(entry)
        self._pieces = []

    def _read(self, nbytes: int) -> bytes:
        data = bytearray()
        while len(data) < nbytes and (more := self._file.read(nbytes - len(data))):
            data += more
        return bytes(data)

    def _write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:  # a full disk may take a part first, and fails the next time
            rest = rest[self._file.write(rest) :]
        self._count(data)

    def _count(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self.nbytes += len(data)
        self._progress(self.nbytes)

    @property
    def sha256(self) -> str:
        """Lowercase hex digest of everything in place so far."""
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
                if len(self.done) != len(self._tensors):
                    raise AssertionError(f"{self.path}: {len(self.done)} tensors of all")
                os.fsync(self._file.fileno())
