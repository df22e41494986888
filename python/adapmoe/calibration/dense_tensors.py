# SPDX-License-Identifier: Apache-2.0
"""Weights of a pack's dense.safetensors as float32, by export/FORMAT.md."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.packed_matrix import LANES, unpack_floats, unpack_quants

F32 = NDArray[np.float32]


class DenseTensors:
    """Reads single tensors; nothing is kept."""

    def __init__(self, pack: Path) -> None:
        """Look at the manifest. Raises PackError."""
        dense = json.loads(_core.inspect_pack(str(pack)))["dense"]
        self._tensors: dict[str, dict[str, Any]] = dense["tensors"]
        self._file = np.memmap(pack / dense["file"], np.uint8, "r", offset=dense["data_offset"])

    def vector(self, name: str) -> F32:
        """A vector, float32 `[length]`."""
        place = self._tensors[name]
        values: F32 = self._bytes(place).view(np.float32)[: place["length"]]
        return values

    def rows(self, name: str, rows: NDArray[np.integer] | None = None) -> F32:
        """Rows of a matrix, float32 `[n, cols]`: the given ones, or all."""
        place = self._tensors[name]
        wanted = np.arange(place["rows"]) if rows is None else rows
        blocks, at = np.unique(wanted // LANES, return_inverse=True)
        data = self._bytes(place).reshape(-(-place["rows"] // LANES), -1)[blocks]
        unpacked = _unpack(np.ascontiguousarray(data), place)
        values: F32 = unpacked[at.reshape(-1), wanted % LANES, : place["cols"]]
        return values

    def _bytes(self, place: dict[str, Any]) -> NDArray[np.uint8]:
        return self._file[place["offset"] : place["offset"] + place["bytes"]]


def _unpack(blocks: NDArray[np.uint8], place: dict[str, Any]) -> F32:
    """Packed blocks `[n, block_bytes]` to float32 `[n, 16 rows, cols_padded]`."""
    dtype, n = place["dtype"], len(blocks)
    if dtype in ("f16", "f32"):
        return np.asarray(unpack_floats(blocks, dtype).reshape(n, LANES, -1), np.float32)
    quants, scales = unpack_quants(blocks, place["cols"], dtype, place["group_size"])
    groups = quants.reshape(*scales.shape, -1)
    values = np.multiply(groups, scales[..., None], dtype=np.float32)
    return values.reshape(n, LANES, -1)
