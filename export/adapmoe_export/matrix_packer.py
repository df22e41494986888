# SPDX-License-Identifier: Apache-2.0
"""Turns tensors of the checkpoint into the bytes of the pack, piece by piece."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.errors import CheckpointError
from adapmoe.pack.manifest import ModelConfig
from adapmoe_export.architecture import ExpertSpec, MatrixSource, whole
from adapmoe_export.hf_checkpoint import HfCheckpoint, LazyMatrix
from adapmoe_export.plan import VECTOR_MULTIPLE, DenseTensor, PackPlan
from adapmoe_export.safetensors_file import Weights, align_up

_BLOCK_ROWS = 16  # a packed matrix is a sequence of blocks of 16 rows
_PIECE_WEIGHTS = 1 << 22  # weights per piece of a dense matrix, about
_LARGEST = {"int4": 7 * 65504.0, "int8": 127 * 65504.0, "f16": 65504.0}


@dataclass(frozen=True)
class Piece:
    """Consecutive bytes of a tensor of the pack, and what packing changed."""

    data: NDArray[np.uint8]
    errors: list[tuple[str, float, float]]  # (kind, sum of squared error, sum of squares)


Job = Callable[[], Piece]  # may run in any thread; raises CheckpointError


class MatrixPacker:
    """Packs the matrices of a checkpoint as a plan lays them out. Safe to use from threads."""

    def __init__(self, checkpoint: HfCheckpoint, plan: PackPlan, threads: int) -> None:
        """Read from `checkpoint`, lay out by `plan`, with `threads` threads per job."""
        self._checkpoint = checkpoint
        self._plan = plan
        self._threads = threads

    def dense_jobs(self, tensor: DenseTensor) -> Iterator[Job]:
        """Jobs whose pieces are the bytes of a dense tensor, in order."""
        if tensor.source is None or tensor.source.role == "vector":
            yield partial(self._vector, tensor)
            return
        matrix = whole(tensor.source.tensor, tensor.source.kind)
        step = max(_PIECE_WEIGHTS // matrix.cols // _BLOCK_ROWS, 1) * _BLOCK_ROWS
        for first in range(0, matrix.rows, step):
            yield partial(self._rows, tensor, matrix, first, min(step, matrix.rows - first))

    def expert_jobs(self, expert: ExpertSpec) -> Iterator[Job]:
        """One job per tile of an expert, in order."""
        # Its columns are cut across the file, so down_proj is read once and shared by the tiles.
        down_proj = LazyMatrix(self._checkpoint, expert.down_proj)
        for tile in range(self._plan.tiling.tiles):
            yield partial(self._tile, expert, down_proj, tile)

    def _vector(self, tensor: DenseTensor) -> Piece:
        if tensor.source is None:
            values = rope_inv_freq(self._plan.config)
        else:
            spec = tensor.source.tensor
            values = self._checkpoint.read(spec, 0, 1).to_float32()[0]
            if not np.isfinite(values).all():
                raise self._bad_weight(whole(spec, ""), values[np.newaxis], 0, 0, tensor.dtype)
        return Piece(pad_vector(values).view(np.uint8), [])

    def _rows(self, tensor: DenseTensor, matrix: MatrixSource, first: int, rows: int) -> Piece:
        weights = self._checkpoint.read(matrix.tensor, first, rows)
        return self._pack(weights, matrix, (first, 0), tensor.dtype, tensor.group_size)

    def _tile(self, expert: ExpertSpec, down_proj: LazyMatrix, tile: int) -> Piece:
        width = self._plan.tiling.tile_width
        first = tile * width
        options, group_size = self._plan.options, self._plan.expert_group_size
        data = np.zeros(self._plan.tiling.tile_bytes, np.uint8)
        errors = []
        end = 0
        for matrix in expert.matrices():
            if matrix is expert.down_proj:
                whole_matrix = down_proj.get()
                columns = whole_matrix.bits[:, first : first + width]
                bits, dtype = _pad(columns, (matrix.rows, width)), whole_matrix.dtype
                place = (0, first)
            else:
                rows = min(width, matrix.rows - first)
                part = self._checkpoint.read(matrix.tensor, matrix.first_row + first, rows)
                bits, dtype = _pad(part.bits, (width, matrix.cols)), part.dtype
                place = (first, 0)
            piece = self._pack(Weights(bits, dtype), matrix, place, options.experts, group_size)
            data[end : end + piece.data.size] = piece.data
            end += piece.data.size
            errors += piece.errors
        return Piece(data, errors)

    def _pack(
        self,
        weights: Weights,
        source: MatrixSource,
        place: tuple[int, int],
        dtype: str,
        group_size: int,
    ) -> Piece:
        """`weights` begin at row and column `place` of `source`."""
        try:
            packed, error, squares = _core.pack_matrix(
                weights.bits, dtype, group_size, self._threads, weights.dtype
            )
        except ValueError as problem:
            values = weights.to_float32()
            raise self._bad_weight(source, values, *place, dtype) from problem
        return Piece(packed, [(source.kind, error, squares)] if source.kind else [])

    def _bad_weight(
        self,
        source: MatrixSource,
        values: NDArray[np.float32],
        first_row: int,
        first_col: int,
        dtype: str,
    ) -> CheckpointError:
        """Names the first weight of `values` that `dtype` cannot hold, by its place in the file."""
        fits = np.abs(values) <= _LARGEST.get(dtype, np.finfo(np.float32).max)
        row, col = divmod(int(np.argmin(fits)), values.shape[1])
        value = float(values[row, col])
        flat = (source.first_row + first_row + row) * source.cols + first_col + col
        index = [int(i) for i in np.unravel_index(flat, source.tensor.shape)]
        where = f"{self._checkpoint.describe(source.tensor.name)} holds {value:g} at {index}"
        if not np.isfinite(value):
            return CheckpointError(f"{where}; weights must be finite")
        return CheckpointError(
            f"{where}; {dtype} holds at most {_LARGEST[dtype]:g}; export this matrix as f32"
        )


def rope_inv_freq(config: ModelConfig) -> NDArray[np.float32]:
    """RoPE frequencies [head_dim / 2] in radians per position, rounded once from float64."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies: NDArray[np.float64] = 1.0 / np.power(config.rope_theta, exponents)
    return frequencies.astype(np.float32)


def pad_vector(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero-pad [n] to a multiple of 16 elements."""
    padded = np.zeros(align_up(vector.size, VECTOR_MULTIPLE), np.float32)
    padded[: vector.size] = vector
    return padded


def _pad(part: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """`part` with zero rows and columns up to `shape`. Copies only if it must."""
    if part.shape == shape:
        return part
    padded = np.zeros(shape, part.dtype)
    padded[: part.shape[0], : part.shape[1]] = part
    return padded
