# SPDX-License-Identifier: Apache-2.0
"""The options and the layout of a pack, known in full before the first weight is read."""

from dataclasses import dataclass
from itertools import takewhile

from adapmoe import _core
from adapmoe.errors import CheckpointError
from adapmoe.pack.manifest import ModelConfig
from adapmoe_export.architecture import (
    Architecture,
    DenseSource,
    ExpertSpec,
    Json,
    TensorSpec,
)
from adapmoe_export.errors import ExportError
from adapmoe_export.safetensors_file import PAGE_BYTES, TensorEntry, align_up, make_header

ROPE_INV_FREQ = "rope.inv_freq"
VECTOR_MULTIPLE = 16  # vectors are zero-padded to a multiple of this many elements
DTYPES = ("int4", "int8", "f16", "f32")
GROUP_SIZES = (32, 64, 128)
_MAX_THREADS = 1024
# What the runtime reads of a JSON text (runtime/store/json_fields.h). A safetensors header has 7
# values per tensor; a manifest has 8 digits per tile.
MAX_JSON_BYTES, MAX_JSON_VALUES = 8 << 20, 1 << 18
_MAX_EXPERTS = (MAX_JSON_VALUES - 1) // 7
_MAX_TILES = MAX_JSON_BYTES // 8
MAX_TILE_BYTES = 8 << 20  # unless the user asks for more
FLOAT_GROUP_SIZE = 16  # what the format writes as the group size of f16 and f32


@dataclass(frozen=True)
class ExportOptions:
    """Options of one export. Raises ExportError for a value outside the lists."""

    experts: str = "int4"  # dtype of the expert matrices
    dense: str = "int8"  # dtype of every other matrix but the router, which stays f32
    group_size: int = 32  # weights per scale, for int4 and int8
    tile_width: int | None = None  # columns of intermediate_size per tile; None: chosen
    overwrite: bool = False
    fresh: bool = False  # start over instead of resuming
    threads: int = 0  # 0: one per core. The bytes do not depend on it

    def __post_init__(self) -> None:
        """Refuse what the format does not have."""
        for name, dtype in (("experts", self.experts), ("dense", self.dense)):
            if dtype not in DTYPES:
                raise ExportError(f"{name}: unknown dtype {dtype!r}, choose {', '.join(DTYPES)}")
        if type(self.group_size) is not int or self.group_size not in GROUP_SIZES:
            raise ExportError(f"group size {self.group_size!r}: choose 32, 64 or 128")
        if self.tile_width is not None and type(self.tile_width) is not int:
            raise ExportError(f"tile width {self.tile_width!r}: give a whole number, or None")
        if type(self.threads) is not int or not 0 <= self.threads <= _MAX_THREADS:
            raise ExportError(f"threads {self.threads!r}: give 0 (one per core) to {_MAX_THREADS}")

    def group_size_of(self, dtype: str) -> int:
        """Group size of a matrix in `dtype`, as the pack records it."""
        return self.group_size if dtype in ("int4", "int8") else FLOAT_GROUP_SIZE


@dataclass(frozen=True)
class Tiling:
    """Geometry of every expert record. Widths are in columns of intermediate_size."""

    tiles: int
    tile_width: int
    tile_bytes: int

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert's record."""
        return self.tiles * self.tile_bytes


@dataclass(frozen=True)
class DenseTensor:
    """One tensor of dense.safetensors. `shape` is [rows, cols] or [length]."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    group_size: int  # 0 for a vector
    nbytes: int
    source: DenseSource | None  # None: the exporter computes it

    @property
    def entry(self) -> TensorEntry:
        """How the safetensors header describes it."""
        if self.group_size:
            return TensorEntry(self.name, "U8", (self.nbytes,), self.nbytes)
        return TensorEntry(self.name, "F32", (self.nbytes // 4,), self.nbytes)


@dataclass(frozen=True)
class PackPlan:
    """Everything that follows from the config and the options."""

    architecture: Architecture
    config: ModelConfig
    options: ExportOptions
    tiling: Tiling
    dense: list[DenseTensor]  # in file order
    fused: bool  # whether the checkpoint has one tensor for all experts of a layer

    @property
    def expert_group_size(self) -> int:
        """Group size of the expert matrices."""
        return self.options.group_size_of(self.options.experts)

    def experts(self) -> list[ExpertSpec]:
        """All experts, layer-major."""
        return [
            self.architecture.expert(self.config, layer, expert, self.fused)
            for layer in range(self.config.num_hidden_layers)
            for expert in range(self.config.num_local_experts)
        ]

    def sources(self) -> list[TensorSpec]:
        """Every tensor that the checkpoint must hold."""
        dense = [tensor.source.tensor for tensor in self.dense if tensor.source is not None]
        experts = [matrix.tensor for expert in self.experts() for matrix in expert.matrices()]
        return list(dict.fromkeys(dense + experts))

    def dense_entries(self) -> list[TensorEntry]:
        """Tensors of dense.safetensors, in file order."""
        return [tensor.entry for tensor in self.dense]

    def expert_entries(self) -> list[TensorEntry]:
        """Tensors of experts.safetensors, in file order."""
        size = self.tiling.expert_bytes
        return [
            TensorEntry(
                f"model.layers.{layer}.block_sparse_moe.experts.{expert}", "U8", (size,), size
            )
            for layer in range(self.config.num_hidden_layers)
            for expert in range(self.config.num_local_experts)
        ]

    def total_bytes(self) -> int:
        """Bytes of both safetensors files."""
        return sum(
            len(make_header(entries)) + sum(entry.nbytes for entry in entries)
            for entries in (self.dense_entries(), self.expert_entries())
        )

    def expert_geometry(self) -> Json:
        """The manifest's `experts`, without the checksums."""
        return {
            "file": "experts.safetensors",
            "data_offset": len(make_header(self.expert_entries())),
            "tiles": self.tiling.tiles,
            "tile_width": self.tiling.tile_width,
            "tile_bytes": self.tiling.tile_bytes,
            "expert_bytes": self.tiling.expert_bytes,
        }

    def dense_geometry(self) -> Json:
        """The manifest's `dense`."""
        tensors: Json = {}
        offset = 0
        for tensor in self.dense:
            place = {"dtype": tensor.dtype, "offset": offset, "bytes": tensor.nbytes}
            if tensor.group_size:
                rows, cols = tensor.shape
                place |= {"kind": "matrix", "group_size": tensor.group_size}
                place |= {"rows": rows, "cols": cols}
            else:
                place |= {"kind": "vector", "length": tensor.shape[0]}
            tensors[tensor.name] = place
            offset += tensor.nbytes
        data_offset = len(make_header(self.dense_entries()))
        return {"file": "dense.safetensors", "data_offset": data_offset, "tensors": tensors}


def make_plan(
    architecture: Architecture, config: ModelConfig, options: ExportOptions, fused: bool = False
) -> PackPlan:
    """Lay out the pack.

    Raises CheckpointError for more experts than a pack can list, and ExportError for a tile width
    that does not fit.
    """
    experts = config.num_hidden_layers * config.num_local_experts
    if experts > _MAX_EXPERTS:
        raise CheckpointError(
            f"config.json: {config.num_hidden_layers} layers of {config.num_local_experts} experts "
            f"are {experts}, more than the {_MAX_EXPERTS} that a pack can list"
        )
    dense = [_dense_tensor(source, options) for source in architecture.dense_sources(config)]
    dense.append(_vector(ROPE_INV_FREQ, config.head_dim // 2, None))
    tiling = choose_tiling(
        config.intermediate_size,
        config.hidden_size,
        options.experts,
        options.group_size_of(options.experts),
        options.tile_width,
    )
    if experts * tiling.tiles > _MAX_TILES:
        raise ExportError(
            f"tile width {tiling.tile_width}: gives {tiling.tiles} tiles per expert and "
            f"{experts * tiling.tiles} in all, more than the {_MAX_TILES} that a pack can list; "
            "choose a wider one"
        )
    dense.sort(key=lambda tensor: tensor.name)
    return PackPlan(architecture, config, options, tiling, dense, fused)


def _dense_tensor(source: DenseSource, options: ExportOptions) -> DenseTensor:
    name, shape = source.tensor.name, source.tensor.shape
    if source.role == "vector":
        return _vector(name, shape[0], source)
    dtype = "f32" if source.role == "router" else options.dense
    group_size = FLOAT_GROUP_SIZE if source.role == "router" else options.group_size_of(dtype)
    rows, cols = shape
    nbytes = _core.packed_bytes(rows, cols, dtype, group_size)
    return DenseTensor(name, shape, dtype, group_size, nbytes, source)


def _vector(name: str, length: int, source: DenseSource | None) -> DenseTensor:
    return DenseTensor(name, (length,), "f32", 0, 4 * align_up(length, VECTOR_MULTIPLE), source)


def tile_bytes(tile_width: int, hidden_size: int, dtype: str, group_size: int) -> int:
    """Bytes of one tile: gate and up rows, down columns, padded to a page."""
    rows = _core.packed_bytes(tile_width, hidden_size, dtype, group_size)
    columns = _core.packed_bytes(hidden_size, tile_width, dtype, group_size)
    return align_up(2 * rows + columns, PAGE_BYTES)


def choose_tiling(
    intermediate_size: int, hidden_size: int, dtype: str, group_size: int, width: int | None = None
) -> Tiling:
    """The tiling with the given width, or else the widest tiles of at most 8 MiB.

    `group_size` is the pack's (16 for f16 and f32), a multiple of 16, so it is the unit of
    widths. Raises ExportError for a width that is not a multiple of it or wider than an expert.
    """
    unit = group_size
    padded = align_up(intermediate_size, unit)
    if width is None:
        width = _widest(intermediate_size, hidden_size, dtype, unit)
    elif width < unit or width % unit or width > padded:
        raise ExportError(f"tile width {width}: give a multiple of {unit}, at most {padded}")
    return Tiling(
        tiles=-(-intermediate_size // width),
        tile_width=width,
        tile_bytes=tile_bytes(width, hidden_size, dtype, unit),
    )


def _widest(intermediate_size: int, hidden_size: int, dtype: str, unit: int) -> int:
    # Tile bytes grow with the width. A hidden_size so large that not even one unit fits still gets
    # tiles of one unit.
    widths = range(unit, align_up(intermediate_size, unit) + 1, unit)
    fitting = [
        *takewhile(lambda w: tile_bytes(w, hidden_size, dtype, unit) <= MAX_TILE_BYTES, widths)
    ] or [unit]
    dividing = [width for width in fitting if intermediate_size % width == 0]
    if dividing:
        return dividing[-1]
    parts = -(-intermediate_size // fitting[-1])
    return align_up(-(-intermediate_size // parts), unit)
