# SPDX-License-Identifier: Apache-2.0
"""The weights of one expert of a pack, as the integers and scales that it stores."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.errors import PackError, ReadError
from adapmoe.packed_matrix import LANES, PackedShape, unpack_floats, unpack_quants

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
        self.manifest: dict[str, Any] = json.loads(_core.inspect_pack(str(pack)))
        self.hidden_size: int = self.manifest["config"]["hidden_size"]
        self.intermediate_size: int = self.manifest["config"]["intermediate_size"]
        quantization = self.manifest["quantization"]["experts"]
        self.dtype: str = quantization["dtype"]
        self.group_size: int = quantization["group_size"]
        self._place = self.manifest["experts"]
        self._path = pack / self._place["file"]
        self._shapes = tile_shapes(self.manifest)

    @property
    def ids(self) -> list[tuple[int, int]]:
        """(layer, expert) of all experts, in the order of the file."""
        config = self.manifest["config"]
        layers, experts = config["num_hidden_layers"], config["num_local_experts"]
        return [(layer, expert) for layer in range(layers) for expert in range(experts)]

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
        index = layer * self.manifest["config"]["num_local_experts"] + expert
        checksums, nbytes = self._place["crc32c"][index], self._place["tile_bytes"]
        offset = self._place["data_offset"] + index * self._place["expert_bytes"]
        try:
            with self._path.open("rb", buffering=0) as file:
                for tile in range(self._place["tiles"]):
                    data = np.zeros(nbytes, np.uint8)
                    _read(file.fileno(), data, offset + tile * nbytes)
                    found, wanted = _core.crc32c(data), checksums[8 * tile : 8 * tile + 8]
                    if f"{found:08x}" != wanted:
                        raise PackError(
                            f"{self._path}: tile {tile} of expert {expert} in layer {layer}: "
                            f"CRC-32C is {found:08x}, the manifest says {wanted}; the file is "
                            "damaged: copy or export it again"
                        )
                    yield data
        except OSError as error:
            raise ReadError(f"{self._path}: cannot be read: {error.strerror}") from error


def tile_shapes(manifest: dict[str, Any]) -> tuple[PackedShape, PackedShape, PackedShape]:
    """gate_proj, up_proj and down_proj of a tile."""
    hidden, width = manifest["config"]["hidden_size"], manifest["experts"]["tile_width"]
    quantization = manifest["quantization"]["experts"]
    dtype, group_size = quantization["dtype"], quantization["group_size"]
    rows = PackedShape(width, hidden, dtype, group_size)
    return rows, rows, PackedShape(hidden, width, dtype, group_size)


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
