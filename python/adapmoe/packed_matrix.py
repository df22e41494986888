# SPDX-License-Identifier: Apache-2.0
"""The packed matrix of export/FORMAT.md read back with NumPy."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core

LANES = 16  # rows of a block


class PackedShape(NamedTuple):
    """A packed matrix `[rows, cols]`; dtype and group size as in the manifest."""

    rows: int
    cols: int
    dtype: str
    group_size: int

    @property
    def nbytes(self) -> int:
        """Bytes of the packed matrix."""
        return _core.packed_bytes(*self)


def unpack_floats(blocks: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """Blocks uint8 `[n, block bytes]` of an f16 or f32 matrix to values `[16 n, padded cols]`."""
    kind = np.float16 if dtype == "f16" else np.float32
    values = np.ascontiguousarray(blocks).view(kind).reshape(len(blocks), -1, LANES)
    by_row: NDArray[Any] = values.transpose(0, 2, 1).reshape(len(blocks) * LANES, -1)
    return by_row


def unpack_quants(
    blocks: NDArray[np.uint8], cols: int, dtype: str, group_size: int
) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Blocks uint8 `[n, block bytes]` of an int4 or int8 matrix to its integers and scales.

    Returns:
        int8 `[16 n, padded cols]` and float16 `[16 n, groups]`; a weight is their product.
    """
    rows, groups = len(blocks) * LANES, -(-cols // group_size)
    scale_bytes = 2 * LANES * groups
    scales = np.ascontiguousarray(blocks[:, :scale_bytes]).view(np.float16)
    scales = scales.reshape(-1, groups, LANES).transpose(0, 2, 1).reshape(rows, groups)
    words = np.ascontiguousarray(blocks[:, -(-scale_bytes // 64) * 64 :])
    words = words.reshape(len(blocks), -1, LANES, 4)
    if dtype == "int8":
        quants = words.view(np.int8).transpose(0, 2, 1, 3)
        return quants.reshape(rows, -1), scales
    quants = np.empty((len(blocks), LANES, words.shape[1], 2, 4), np.int8)
    by_row = words.transpose(0, 2, 1, 3)
    np.subtract(by_row & 15, 8, out=quants[..., 0, :], casting="unsafe")
    np.subtract(by_row >> 4, 8, out=quants[..., 1, :], casting="unsafe")
    return quants.reshape(rows, -1), scales
