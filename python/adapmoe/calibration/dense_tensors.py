# SPDX-License-Identifier: Apache-2.0
"""Weights of a pack's dense.safetensors as float32, by export/FORMAT.md."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core

F32 = NDArray[np.float32]
_LANES = 16


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
        blocks, at = np.unique(wanted // _LANES, return_inverse=True)
        data = self._bytes(place).reshape(-(-place["rows"] // _LANES), -1)[blocks]
        unpacked = _unpack(np.ascontiguousarray(data), place)
        values: F32 = unpacked[at.reshape(-1), wanted % _LANES, : place["cols"]]
        return values

    def _bytes(self, place: dict[str, Any]) -> NDArray[np.uint8]:
        return self._file[place["offset"] : place["offset"] + place["bytes"]]


def _unpack(blocks: NDArray[np.uint8], place: dict[str, Any]) -> F32:
    """Packed blocks `[n, block_bytes]` to float32 `[n, 16 rows, cols_padded]`."""
    dtype, group = place["dtype"], place["group_size"]
    n = len(blocks)
    if dtype in ("f16", "f32"):
        values = blocks.view(np.float16 if dtype == "f16" else np.float32)
        return np.asarray(values.reshape(n, -1, _LANES).transpose(0, 2, 1), np.float32)
    groups = -(-place["cols"] // group)
    scale_bytes = 2 * _LANES * groups
    scales = np.ascontiguousarray(blocks[:, :scale_bytes]).view(np.float16)
    scales = scales.reshape(n, groups, _LANES).transpose(0, 2, 1).astype(np.float32)
    quants = np.ascontiguousarray(blocks[:, -(-scale_bytes // 64) * 64 :])
    if dtype == "int8":
        q = quants.view(np.int8).reshape(n, -1, _LANES, 4)
    else:
        bytes4 = quants.reshape(n, -1, _LANES, 4)
        q = np.concatenate([bytes4 & 15, bytes4 >> 4], axis=-1).astype(np.int8) - np.int8(8)
    q = q.transpose(0, 2, 1, 3).reshape(n, _LANES, groups, group)
    values32: F32 = (q * scales[..., None]).reshape(n, _LANES, -1)
    return values32
