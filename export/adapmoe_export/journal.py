# SPDX-License-Identifier: Apache-2.0
"""Records what an unfinished export has written, so that it can resume after a kill at any moment.

One line per tensor of the pack: CRC-32C of the rest of the line, a space, JSON. The first line is
the fingerprint of checkpoint and options. A torn line and everything after it are ignored.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from adapmoe import _core
from adapmoe.machine.files import replace_file
from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.manifest import FORMAT_VERSION
from adapmoe_export.plan import PackPlan


@dataclass(frozen=True)
class JournalEntry:
    """A tensor of the pack whose bytes are all in the file."""

    file: str
    tensor: str
    pieces: list[tuple[int, int]]  # (bytes, CRC-32C), in order
    errors: list[tuple[str, float, float]]  # (kind, sum of squared error, sum of squares)


class Journal:
    """A context manager. Entries of one file are in the order in which the file was written."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Open or create `path`. Entries with another fingerprint are forgotten."""
        lines = _intact_lines(path)
        self.entries: list[JournalEntry] = []
        self._path = path
        self._fingerprint = fingerprint
        if lines and lines[0] == {"fingerprint": fingerprint}:
            self.entries = [_entry(line) for line in lines[1:]]
        self._rewrite()

    def of(self, file: str) -> list[JournalEntry]:
        """Entries of one file of the pack."""
        return [entry for entry in self.entries if entry.file == file]

    def append(self, entry: JournalEntry) -> None:
        """Record a tensor. REQUIRES: its bytes were handed to the operating system."""
        self._file.write(_line(asdict(entry)))
        self.entries.append(entry)

    def forget(self, entries: list[JournalEntry]) -> None:
        """Drop entries whose bytes are not in the file after all."""
        self.entries = [entry for entry in self.entries if entry not in entries]
        self._file.close()
        self._rewrite()

    def _rewrite(self) -> None:
        """Leave exactly the fingerprint and `entries` in the file, then append to it."""
        text = _line({"fingerprint": self._fingerprint})
        replace_file(self._path, text + b"".join(_line(asdict(entry)) for entry in self.entries))
        self._file = self._path.open("ab", buffering=0)

    def __enter__(self) -> "Journal":
        """Nothing to do: the file is open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()


def has_entries(path: Path) -> bool:
    """Whether the journal at `path` records any finished tensor."""
    return len(_intact_lines(path)) > 1


def _line(value: object) -> bytes:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return b"%08x %s\n" % (_crc32c(text), text)


def _intact_lines(path: Path) -> list[dict[str, object]]:
    if not path.is_file():
        return []
    values = []
    for line in path.read_bytes().splitlines(keepends=True):
        checksum, _, text = line.partition(b" ")
        if not text.endswith(b"\n") or checksum != b"%08x" % _crc32c(text[:-1]):
            break
        values.append(json.loads(text))
    return values


def _entry(line: dict[str, object]) -> JournalEntry:
    entry = JournalEntry(**line)  # type: ignore[arg-type]  # the checksum says that we wrote it
    return JournalEntry(
        entry.file,
        entry.tensor,
        [(nbytes, crc) for nbytes, crc in entry.pieces],
        [(kind, error, squares) for kind, error, squares in entry.errors],
    )


def _crc32c(data: bytes) -> int:
    return _core.crc32c(np.frombuffer(data, np.uint8))


def fingerprint(plan: PackPlan, checkpoint: HfCheckpoint) -> str:
    """What an unfinished export must have in common with the run that resumes it.

    The hex digest of everything that the bytes of the pack depend on.

    The weights themselves would take too long: their files count by name, size, modification time
    and header.
    """
    known = {
        "exporter": _core.__version__,
        "format_version": FORMAT_VERSION,
        "config": hashlib.sha256(checkpoint.config_bytes).hexdigest(),
        "dtypes": [plan.options.experts, plan.options.dense, plan.options.group_size],
        "tiling": asdict(plan.tiling),
        "files": [_file(path) for path in checkpoint.files],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _file(path: Path) -> list[object]:
    status = path.stat()
    with path.open("rb") as file:
        length = file.read(8)
        header = hashlib.sha256(length + file.read(int.from_bytes(length, "little"))).hexdigest()
    return [path.name, status.st_size, status.st_mtime_ns, header]
