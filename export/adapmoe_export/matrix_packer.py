# SPDX-License-Identifier: Apache-2.0
"""Turns tensors of the checkpoint into the bytes of the pack."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.errors import CheckpointError
from adapmoe_export.architecture import ExpertSpec, ModelConfig, TensorSpec
from adapmoe_export.error_report import ErrorReport
from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.plan import VECTOR_MULTIPLE, DenseTensor, PackPlan
from adapmoe_export.tiling import align_up

_CHUNK_WEIGHTS = 1 << 24  # weights held as float32 at a time, when a matrix can be cut by rows
_BLOCK_ROWS = 16  # a packed matrix is a sequence of blocks of 16 rows


class MatrixPacker:
    """Packs matrices with the options of a plan and counts their errors."""

    def __init__(self, checkpoint: HfCheckpoint, plan: PackPlan, report: ErrorReport) -> None:
        """Read from `checkpoint`, lay out by `plan`, count in `report`."""
        self._checkpoint = checkpoint
        self._plan = plan
        self._report = report

    def dense_pieces(self, tensor: DenseTensor) -> Iterator[NDArray[Any]]:
        """The bytes of one dense tensor, in order."""
        if tensor.source is None:
            yield pad_vector(rope_inv_freq(self._plan.config))
            return
        values = self._checkpoint.read(tensor.source)
        if not tensor.group_size:
            yield pad_vector(values.astype(np.float32))
            return
        rows, cols = tensor.shape
        step = max(_CHUNK_WEIGHTS // cols // _BLOCK_ROWS, 1) * _BLOCK_ROWS
        for first in range(0, rows, step):
            part = values[first : first + step].astype(np.float32, copy=False)
            yield self._pack(part, tensor.source, tensor.dtype, tensor.group_size)

    def expert_tiles(self, expert: ExpertSpec) -> Iterator[NDArray[np.uint8]]:
        """The tiles of one expert, in order: uint8 [tile_bytes] each."""
        gate_proj, up_proj, down_proj = (self._checkpoint.read(spec) for spec in expert.tensors())
        width = self._plan.tiling.tile_width
        for tile in range(self._plan.tiling.tiles):
            part = slice(tile * width, (tile + 1) * width)
            matrices = (
                _pad(gate_proj[part], (width, gate_proj.shape[1])),
                _pad(up_proj[part], (width, up_proj.shape[1])),
                _pad(down_proj[:, part], (down_proj.shape[0], width)),
            )
            yield self._tile(matrices, expert)

    def _tile(
        self, matrices: tuple[NDArray[np.float32], ...], expert: ExpertSpec
    ) -> NDArray[np.uint8]:
        tile = np.zeros(self._plan.tiling.tile_bytes, np.uint8)
        end = 0
        for matrix, spec in zip(matrices, expert.tensors(), strict=True):
            packed = self._pack(
                matrix, spec, self._plan.options.experts, self._plan.expert_group_size
            )
            tile[end : end + packed.size] = packed
            end += packed.size
        return tile

    def _pack(
        self, matrix: NDArray[np.float32], spec: TensorSpec, dtype: str, group_size: int
    ) -> NDArray[np.uint8]:
        threads = self._plan.options.threads
        try:
            packed, error, weights = _core.pack_matrix(matrix, dtype, group_size, threads)
        except ValueError as problem:  # a weight beyond what the dtype can hold
            raise CheckpointError(f"tensor {spec.name}: {problem}") from problem
        if spec.role == "matrix":  # the router is exact
            self._report.add(spec.kind, error, weights)
        return packed


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


def _pad(part: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float32]:
    """`part` as float32, with zero rows and columns up to `shape`. Copies only if it must."""
    if part.shape == shape:
        return part.astype(np.float32, copy=False)
    padded = np.zeros(shape, np.float32)
    padded[: part.shape[0], : part.shape[1]] = part
    return padded
