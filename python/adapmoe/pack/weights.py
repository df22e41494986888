# SPDX-License-Identifier: Apache-2.0
"""Weights of a pack as NumPy arrays: packed matrices, experts, dense tensors."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.errors import PackError, ReadError
from adapmoe.pack.manifest import DenseMatrix, DenseVector, Manifest

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


F64 = NDArray[np.float64]
_ROWS_AT_ONCE = 512  # of a matrix in float64, when it is multiplied


@dataclass(frozen=True)
class ExpertMatrix:
    """A matrix `[rows, cols]`, `y = W x`.

    Attributes:
        quants: int8 integers; with f16 or f32 experts the weights themselves.
        scales: float16 `[rows, cols / group size]`; None with f16 or f32 experts.
    """

    quants: NDArray[Any]
    scales: NDArray[np.float16] | None

    def multiply(self, x: F64) -> F64:
        """`x` `[n, <= cols]` times the transposed matrix: float64 `[n, rows]`."""
        rows, cols = self.quants.shape
        padded = np.zeros((len(x), cols))
        padded[:, : x.shape[1]] = x
        y = np.empty((len(x), rows))
        for first in range(0, rows, _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            weights = self.quants[part].astype(np.float64)
            if self.scales is not None:
                scales = self.scales[part].astype(np.float64)
                weights *= np.repeat(scales, cols // scales.shape[1], axis=1)
            y[:, part] = padded @ weights.T
        return y


@dataclass(frozen=True)
class ExpertWeights:
    """The matrices without the padding of tiles; with int4 or int8, sizes that are summed over are
    padded with zeros to whole groups.
    """

    gate_proj: ExpertMatrix  # [intermediate size, hidden size]
    up_proj: ExpertMatrix  # [intermediate size, hidden size]
    down_proj: ExpertMatrix  # [hidden size, intermediate size]

    def evaluate(self, x: NDArray[Any]) -> F64:
        """The expert on rows `x` `[n, hidden_size]` in float64: what every backend approximates."""
        wide = x.astype(np.float64)
        gate, up = self.gate_proj.multiply(wide), self.up_proj.multiply(wide)
        return self.down_proj.multiply(gate / (1 + np.exp(-gate)) * up)


class ExpertReader:
    """Reads experts, a tile at a time, and checks each tile."""

    def __init__(self, pack: Path) -> None:
        """Look at the manifest. Raises PackError."""
        self.manifest = Manifest.read(pack)
        self.hidden_size = self.manifest.config.hidden_size
        self.intermediate_size = self.manifest.config.intermediate_size
        self.dtype = self.manifest.quantization.experts.dtype
        self.group_size = self.manifest.quantization.experts.group_size
        self._path = pack / self.manifest.experts.file
        self._shapes = tile_shapes(self.manifest)

    def read(self, layer: int, expert: int) -> ExpertWeights:
        """One expert. Raises PackError for a damaged tile, ReadError if the disk fails."""
        parts: tuple[list[ExpertMatrix], ...] = ([], [], [])
        for tile in self._tiles(layer, expert):
            packed = tile_parts(tile, self._shapes)
            for found, data, shape in zip(parts, packed, self._shapes, strict=True):
                found.append(_unpack(data, shape))
        hidden, inner = self._padded(self.hidden_size), self._padded(self.intermediate_size)
        gate, up = (_join(found, 0, inner, hidden, self.group_size) for found in parts[:2])
        down = _join(parts[2], 1, self.hidden_size, inner, self.group_size)
        return ExpertWeights(gate, up, down)

    def _padded(self, size: int) -> int:
        quantized = self.dtype in ("int4", "int8")
        return -(-size // self.group_size) * self.group_size if quantized else size

    def _tiles(self, layer: int, expert: int) -> Iterator[NDArray[np.uint8]]:
        experts, index = self.manifest.experts, self.manifest.expert_index(layer, expert)
        try:
            with self._path.open("rb", buffering=0) as file:
                for tile in range(experts.tiles):
                    data = np.zeros(experts.tile_bytes, np.uint8)
                    _read(file.fileno(), data, experts.offset(index, tile))
                    found, wanted = _core.crc32c(data), experts.tile_crc32c(index, tile)
                    if f"{found:08x}" != wanted:
                        raise PackError(
                            f"{self._path}: tile {tile} of expert {expert} in layer {layer}: "
                            f"CRC-32C is {found:08x}, the manifest says {wanted}; the file is "
                            "damaged: copy or export it again"
                        )
                    yield data
        except OSError as error:
            raise ReadError(f"{self._path}: cannot be read: {error.strerror}") from error


def tile_shapes(manifest: Manifest) -> tuple[PackedShape, PackedShape, PackedShape]:
    """gate_proj, up_proj and down_proj of a tile."""
    hidden, width = manifest.config.hidden_size, manifest.experts.tile_width
    stored = manifest.quantization.experts
    rows = PackedShape(width, hidden, stored.dtype, stored.group_size)
    return rows, rows, PackedShape(hidden, width, stored.dtype, stored.group_size)


def tile_parts(tile: NDArray[np.uint8], shapes: tuple[PackedShape, ...]) -> list[NDArray[np.uint8]]:
    """The packed matrices in a tile, which follow each other from its first byte."""
    ends = np.cumsum([shape.nbytes for shape in shapes])
    return np.split(tile[: ends[-1]], ends[:-1])


def _read(descriptor: int, data: NDArray[np.uint8], offset: int) -> None:
    """Fill `data` from `offset` on; what the file lacks stays zero, and the checksum finds it."""
    done = 0
    while done < data.size and (n := os.preadv(descriptor, [data[done:].data], offset + done)):
        done += n


def _unpack(data: NDArray[np.uint8], shape: PackedShape) -> ExpertMatrix:
    blocks = data.reshape(-(-shape.rows // LANES), -1)
    if shape.dtype in ("f16", "f32"):
        return ExpertMatrix(unpack_floats(blocks, shape.dtype)[: shape.rows], None)
    quants, scales = unpack_quants(blocks, shape.cols, shape.dtype, shape.group_size)
    return ExpertMatrix(quants[: shape.rows], scales[: shape.rows])


def _join(
    parts: list[ExpertMatrix], axis: int, rows: int, cols: int, group_size: int
) -> ExpertMatrix:
    """One matrix `[rows, cols]` from its tiles, which follow along rows (0) or columns (1)."""
    quants = np.concatenate([part.quants for part in parts], axis)[:rows, :cols]
    scales = [part.scales for part in parts if part.scales is not None]
    if not scales:
        return ExpertMatrix(quants, None)
    return ExpertMatrix(quants, np.concatenate(scales, axis)[:rows, : cols // group_size])


F32 = NDArray[np.float32]


class DenseTensors:
    """Reads single tensors; nothing is kept."""

    def __init__(self, pack: Path) -> None:
        """Look at the manifest. Raises PackError."""
        dense = Manifest.read(pack).dense
        self._tensors = dense.tensors
        self._file = np.memmap(pack / dense.file, np.uint8, "r", offset=dense.data_offset)

    def vector(self, name: str) -> F32:
        """A vector, float32 `[length]`."""
        place = self._tensors[name]
        assert isinstance(place, DenseVector), name
        values: F32 = self._bytes(place).view(np.float32)[: place.length]
        return values

    def rows(self, name: str, rows: NDArray[np.integer] | None = None) -> F32:
        """Rows of a matrix, float32 `[n, cols]`: the given ones, or all."""
        place = self._tensors[name]
        assert isinstance(place, DenseMatrix), name
        wanted = np.arange(place.rows) if rows is None else rows
        blocks, at = np.unique(wanted // LANES, return_inverse=True)
        data = self._bytes(place).reshape(-(-place.rows // LANES), -1)[blocks]
        unpacked = _unpack_dense(np.ascontiguousarray(data), place)
        values: F32 = unpacked[at.reshape(-1), wanted % LANES, : place.cols]
        return values

    def _bytes(self, place: DenseMatrix | DenseVector) -> NDArray[np.uint8]:
        return self._file[place.offset : place.offset + place.bytes]


def _unpack_dense(blocks: NDArray[np.uint8], place: DenseMatrix) -> F32:
    """Packed blocks `[n, block_bytes]` to float32 `[n, 16 rows, cols_padded]`."""
    dtype, n = place.dtype, len(blocks)
    if dtype in ("f16", "f32"):
        return np.asarray(unpack_floats(blocks, dtype).reshape(n, LANES, -1), np.float32)
    quants, scales = unpack_quants(blocks, place.cols, dtype, place.group_size)
    groups = quants.reshape(*scales.shape, -1)
    values = np.multiply(groups, scales[..., None], dtype=np.float32)
    return values.reshape(n, LANES, -1)
