# SPDX-License-Identifier: Apache-2.0
"""Reads every byte of a pack and compares it with the checksums of the manifest."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.errors import PackError, ReadError
from adapmoe.pack.manifest import Manifest

_CHUNK_BYTES = 8 << 20

Progress = Callable[[int, int], None]  # (bytes read so far, bytes in all)


@dataclass(frozen=True)
class _Part:
    """Consecutive bytes of a file with a checksum of their own."""

    name: str  # for messages
    nbytes: int
    crc32c: str  # 8 hex digits


def verify_pack(path: str | os.PathLike[str], progress: Progress | None = None) -> Manifest:
    """Check the layout of a pack, the SHA-256 of every file and the CRC-32C of tiles and tensors.

    Returns the manifest. Raises PackError, which names the first bad file and, where it can, the
    tile or tensor and its offset in bytes; ReadError if the disk fails.
    """
    pack = Path(path)
    manifest = Manifest.read(pack)
    files = manifest.files
    total = sum(file.bytes for file in files.values())
    parts = {
        manifest.dense.file: _dense_parts(manifest),
        manifest.experts.file: _expert_parts(manifest),
    }
    done = 0
    for name, file in sorted(files.items()):
        digest = hashlib.sha256()
        for chunk in _checked_chunks(pack / name, parts.get(name, [])):
            digest.update(chunk.data)
            done += chunk.size
            if progress is not None:
                progress(done, total)
        if digest.hexdigest() != file.sha256:
            raise PackError(
                f"{pack / name}: SHA-256 is {digest.hexdigest()}, the manifest says "
                f"{file.sha256}; the file is damaged: copy or export it again"
            )
    return manifest


def _dense_parts(manifest: Manifest) -> list[_Part]:
    tensors = sorted(manifest.dense.tensors.items(), key=lambda item: item[1].offset)
    return [_Part(f"tensor {name}", place.bytes, place.crc32c) for name, place in tensors]


def _expert_parts(manifest: Manifest) -> list[_Part]:
    experts = manifest.experts
    return [
        _Part(
            f"tile {tile} of expert {expert} in layer {layer}",
            experts.tile_bytes,
            experts.tile_crc32c(index, tile),
        )
        for index, (layer, expert) in enumerate(manifest.expert_ids)
        for tile in range(experts.tiles)
    ]


def _checked_chunks(path: Path, parts: list[_Part]) -> Iterator[NDArray[np.uint8]]:
    """All bytes of a file, which ends with `parts`; each is checked when its last byte was read."""
    try:
        with path.open("rb", buffering=0) as file:
            offset = os.fstat(file.fileno()).st_size - sum(part.nbytes for part in parts)
            yield from _chunks(file, offset)
            for part in parts:
                found = 0
                for chunk in _chunks(file, part.nbytes):
                    found = _core.crc32c(chunk, found)
                    yield chunk
                if f"{found:08x}" != part.crc32c:
                    raise PackError(
                        f"{path}: {part.name}, {part.nbytes} bytes at offset {offset}: CRC-32C is "
                        f"{found:08x}, the manifest says {part.crc32c}; the file is damaged: copy "
                        "or export it again"
                    )
                offset += part.nbytes
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror}") from error


def _chunks(file: FileIO, nbytes: int) -> Iterator[NDArray[np.uint8]]:
    """The next `nbytes` bytes, or fewer at the end of the file."""
    while nbytes > 0 and (data := file.read(min(nbytes, _CHUNK_BYTES))):
        yield np.frombuffer(data, np.uint8)
        nbytes -= len(data)
