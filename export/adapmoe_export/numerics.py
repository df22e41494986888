# SPDX-License-Identifier: Apache-2.0
"""Compares the weights of a pack with the checkpoint that it was made from."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.errors import PackError
from adapmoe.pack.manifest import Manifest
from adapmoe_export.architecture import ExpertSpec, Json, whole
from adapmoe_export.errors import ExportError
from adapmoe_export.hf_checkpoint import HfCheckpoint, LazyMatrix
from adapmoe_export.matrix_packer import rope_inv_freq
from adapmoe_export.plan import DenseTensor, ExportOptions, PackPlan
from adapmoe_export.safetensors_file import Weights
from adapmoe_export.source import open_checkpoint
from adapmoe_export.workers import choose_workers, in_order

_BLOCK_ROWS = 16
_PIECE_WEIGHTS = 1 << 22  # how many of a dense matrix are compared at a time
_TOLERANCE = 1e-3  # relative, of the error that the manifest records with six digits
_EXACT = "exact"  # routers, norms and RoPE frequencies: f32 in the pack, so nothing may change

Progress = Callable[[int, int], None]  # (weights compared so far, weights in all)
Compare = Callable[[], tuple[float, float]]  # -> (sum of squared error, sum of squares)


@dataclass(frozen=True)
class _Part:
    """A part of a tensor of the checkpoint, to be compared."""

    tensor: str
    kind: str
    weights: int
    compare: Compare

    def run(self) -> tuple["_Part", float, float]:
        """Itself, the sum of squared error and the sum of squares."""
        return self, *self.compare()


def compare_weights(pack: Path, checkpoint: Path, progress: Progress | None = None) -> Json:
    """Dequantise every tensor of `pack` and compare it with `checkpoint`.

    REQUIRES: verify_pack(pack) passed. Returns {kind: {relative_rmse, recorded, worst_tensor,
    worst_rmse}} where a relative RMSE is sqrt(sum err^2 / sum w^2). Raises PackError, naming the
    worst tensor, if a kind's error exceeds what the manifest records or an exact tensor changed;
    CheckpointError for the checkpoint.
    """
    manifest = Manifest.read(pack)
    source, plan = _open_same_model(pack, checkpoint, manifest)
    comparison = _Comparison(pack, manifest, source, plan)
    sums: dict[str, dict[str, list[float]]] = {}  # kind -> tensor -> [error, squares]
    total, done = sum(part.weights for part in comparison.parts()), 0
    workers, _ = choose_workers(source, plan)
    with closing(in_order((part.run for part in comparison.parts()), workers)) as results:
        for part, error, squares in results:
            tensor = sums.setdefault(part.kind, {}).setdefault(part.tensor, [0.0, 0.0])
            tensor[0] += error
            tensor[1] += squares
            done += part.weights
            if progress is not None:
                progress(done, total)
    report = {kind: _row(tensors, kind, manifest) for kind, tensors in sorted(sums.items())}
    for kind, row in report.items():
        # Not `>`: an error that is not a number is one. Infinite: zeros only in the checkpoint.
        near = row["relative_rmse"] <= row["recorded"] * (1 + _TOLERANCE)
        if not near or not math.isfinite(row["worst_rmse"]):
            raise PackError(
                f"{pack}: {kind}: the weights differ from {checkpoint} by a relative RMSE of "
                f"{row['relative_rmse']:.6g}, the manifest says {row['recorded']:.6g}; worst is "
                f"{row['worst_tensor']} with {row['worst_rmse']:.6g}; the pack was made from "
                "other weights: export it again"
            )
    return report


def _open_same_model(pack: Path, path: Path, manifest: Manifest) -> tuple[HfCheckpoint, PackPlan]:
    """The checkpoint, and the layout that it must have given the pack."""
    experts, dense = manifest.quantization.experts, manifest.quantization.dense
    quantized = [q.group_size for q in (experts, dense) if q.dtype in ("int4", "int8")]
    options = ExportOptions(
        experts=experts.dtype,
        dense=dense.dtype,
        group_size=quantized[0] if quantized else 32,
        tile_width=manifest.experts.tile_width,
    )
    other = PackError(f"{pack}: {path} holds another model: its tensors differ in name or size")
    try:
        source, plan = open_checkpoint(path, options)
    except ExportError as error:  # not even the tile width fits
        raise other from error
    found: Json = msgspec.to_builtins({"experts": manifest.experts, "dense": manifest.dense})
    for place in (found["experts"], *found["dense"]["tensors"].values()):
        del place["crc32c"]
    if found != {"experts": plan.expert_geometry(), "dense": plan.dense_geometry()}:
        raise other
    return source, plan


def _row(tensors: dict[str, list[float]], kind: str, manifest: Manifest) -> Json:
    rmse = {name: _relative_rmse(*sums) for name, sums in tensors.items()}
    # Comparisons with NaN are always false, so NaN is made the largest.
    worst = max(rmse, key=lambda name: math.inf if math.isnan(rmse[name]) else rmse[name])
    recorded = 0.0 if kind == _EXACT else manifest.weight_errors.get(kind, 0.0)
    error, squares = (sum(column) for column in zip(*tensors.values(), strict=True))
    return {
        "relative_rmse": _relative_rmse(error, squares),
        "recorded": recorded,
        "worst_tensor": worst,
        "worst_rmse": rmse[worst],
    }


def _relative_rmse(error: float, squares: float) -> float:
    if squares == 0:
        return 0.0 if error == 0 else math.inf
    return math.sqrt(error / squares)


class _Comparison:
    """Makes the jobs; each reads its part of both sides."""

    def __init__(
        self, pack: Path, manifest: Manifest, source: HfCheckpoint, plan: PackPlan
    ) -> None:
        self._pack = pack
        self._manifest = manifest
        self._source = source
        self._plan = plan

    def parts(self) -> Iterator[_Part]:
        """Every tensor of the pack, cut into parts."""
        for tensor in self._plan.dense:
            yield from self._dense_parts(tensor)
        for index, expert in enumerate(self._plan.experts()):
            yield from self._expert_parts(index, expert)

    def _dense_parts(self, tensor: DenseTensor) -> Iterator[_Part]:
        dense = self._manifest.dense
        offset = dense.data_offset + dense.tensors[tensor.name].offset
        if not tensor.group_size:
            length = tensor.shape[0]
            yield _Part(tensor.name, _EXACT, length, partial(self._vector, tensor, offset))
            return
        assert tensor.source is not None
        matrix = whole(tensor.source.tensor, tensor.source.kind)
        step = max(_PIECE_WEIGHTS // matrix.cols // _BLOCK_ROWS, 1) * _BLOCK_ROWS
        for first in range(0, matrix.rows, step):
            rows = min(step, matrix.rows - first)
            shape = (rows, matrix.cols, tensor.dtype, tensor.group_size)
            wanted = partial(self._source.read, matrix.tensor, first, rows)
            compare = partial(self._matrix, dense.file, offset, shape, wanted)
            yield _Part(tensor.name, matrix.kind or _EXACT, rows * matrix.cols, compare)
            offset += _core.packed_bytes(*shape)

    def _expert_parts(self, index: int, expert: ExpertSpec) -> Iterator[_Part]:
        experts = self._manifest.experts
        dtype, group_size = self._plan.options.experts, self._plan.expert_group_size
        down_proj = LazyMatrix(self._source, expert.down_proj)
        width = experts.tile_width
        for tile in range(experts.tiles):
            offset = experts.offset(index, tile)
            for matrix in expert.matrices():
                if matrix is expert.down_proj:
                    shape = (matrix.rows, width, dtype, group_size)
                    wanted = partial(_columns, down_proj, tile * width, width)
                else:
                    shape = (width, matrix.cols, dtype, group_size)
                    first, rows = tile * width, min(width, matrix.rows - tile * width)
                    wanted = partial(
                        self._source.read, matrix.tensor, matrix.first_row + first, rows
                    )
                compare = partial(self._matrix, experts.file, offset, shape, wanted)
                yield _Part(matrix.name, matrix.kind, shape[0] * shape[1], compare)
                offset += _core.packed_bytes(*shape)

    def _vector(self, tensor: DenseTensor, offset: int) -> tuple[float, float]:
        stored = self._bytes(self._manifest.dense.file, offset, tensor.nbytes)
        values = stored.view(np.float32)[: tensor.shape[0]]
        if tensor.source is None:
            return _squared_error(values, rope_inv_freq(self._plan.config))
        return _squared_error(values, self._source.read(tensor.source.tensor, 0, 1).to_float32()[0])

    def _matrix(
        self,
        file: str,
        offset: int,
        shape: tuple[int, int, str, int],
        wanted: Callable[[], Weights],
    ) -> tuple[float, float]:
        """The matrix packed as `shape` at `offset` of `file`; `wanted` may lack its padding."""
        packed = self._bytes(file, offset, _core.packed_bytes(*shape))
        weights = wanted()
        return _core.packing_error(packed, *shape, weights.bits, weights.dtype)

    def _bytes(self, file: str, offset: int, nbytes: int) -> NDArray[np.uint8]:
        return np.fromfile(self._pack / file, np.uint8, nbytes, offset=offset)


def _columns(matrix: LazyMatrix, first: int, count: int) -> Weights:
    weights = matrix.get()
    return Weights(weights.bits[:, first : first + count], weights.dtype)


def _squared_error(stored: NDArray[np.float32], wanted: NDArray[np.float32]) -> tuple[float, float]:
    wide = wanted.astype(np.float64)
    return float(np.sum((stored - wide) ** 2)), float(np.sum(wide**2))
