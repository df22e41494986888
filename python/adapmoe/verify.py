# SPDX-License-Identifier: Apache-2.0
"""Reads every byte of a pack and compares it with the checksums of the manifest."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.errors import PackError, ReadError

_CHUNK_BYTES = 8 << 20

Progress = Callable[[int, int], None]  # (bytes read so far, bytes in all)


def verify_pack(path: str | os.PathLike[str], progress: Progress | None = None) -> dict[str, Any]:
    """Check the layout of a pack, the SHA-256 of every file and the CRC-32C of every tile.

    Returns the manifest. Raises PackError, which names the first bad file and, in an expert, the
    tile and its offset in bytes; ReadError if the disk fails.
    """
    pack = Path(path)
    manifest: dict[str, Any] = json.loads(_core.inspect_pack(str(pack)))
    files = manifest["files"]
    total = sum(file["bytes"] for file in files.values())
    done = 0
    for name, file in sorted(files.items()):
        digest = hashlib.sha256()
        is_experts = name == manifest["experts"]["file"]
        chunks = _expert_chunks(pack, manifest) if is_experts else _chunks(pack / name)
        for chunk in chunks:
            digest.update(chunk.data)
            done += chunk.size
            if progress is not None:
                progress(done, total)
        if digest.hexdigest() != file["sha256"]:
            raise PackError(
                f"{pack / name}: SHA-256 is {digest.hexdigest()}, the manifest says "
                f"{file['sha256']}; the file is damaged: copy or export it again"
            )
    return manifest


def _chunks(path: Path, sizes: Iterator[int] | None = None) -> Iterator[NDArray[np.uint8]]:
    """All bytes of a file, in pieces of the given sizes."""
    try:
        with path.open("rb", buffering=0) as file:
            for size in sizes if sizes is not None else iter(lambda: _CHUNK_BYTES, 0):
                data = _read(file.read, size)
                if data.size:
                    yield data
                if data.size < size:
                    return
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror}") from error


def _read(read: Callable[[int], bytes | None], size: int) -> NDArray[np.uint8]:
    """`size` bytes, or fewer at the end of the file."""
    parts = []
    while size > 0 and (part := read(size)):
        parts.append(part)
        size -= len(part)
    return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)


def _expert_chunks(pack: Path, manifest: dict[str, Any]) -> Iterator[NDArray[np.uint8]]:
    """The header and every tile of the experts' file, each tile checked."""
    experts = manifest["experts"]
    path = pack / experts["file"]
    tile_bytes, tiles = experts["tile_bytes"], experts["tiles"]
    per_layer = manifest["config"]["num_local_experts"]
    checksums = [
        (index, tile, int(digits[8 * tile : 8 * tile + 8], 16))
        for index, digits in enumerate(experts["crc32c"])
        for tile in range(tiles)
    ]
    sizes = iter([experts["data_offset"], *[tile_bytes] * len(checksums)])
    chunks = _chunks(path, sizes)
    yield next(chunks)
    offset = experts["data_offset"]
    for (index, tile, crc32c), data in zip(checksums, chunks, strict=False):
        found = _core.crc32c(data)
        if data.size != tile_bytes or found != crc32c:
            layer, expert = divmod(index, per_layer)
            raise PackError(
                f"{path}: tile {tile} of expert {expert} in layer {layer}, {tile_bytes} bytes at "
                f"offset {offset}: CRC-32C is {found:08x}, the manifest says {crc32c:08x}; the "
                "file is damaged: copy or export it again"
            )
        yield data
        offset += tile_bytes
