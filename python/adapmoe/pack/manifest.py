# SPDX-License-Identifier: Apache-2.0
"""The manifest of a pack, typed, and what follows from it. FORMAT.md describes every field."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct

from adapmoe.errors import PackError
from adapmoe.machine.bandwidth import Tiles

if TYPE_CHECKING:
    from adapmoe._core import MemorySplit

FILE = "manifest.json"


class ModelConfig(Struct, frozen=True):
    """The Hugging Face config in the pack's words. Field names are Hugging Face's."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    num_local_experts: int
    num_experts_per_tok: int
    rms_norm_eps: float
    rope_theta: float
    sliding_window: int | None
    tie_word_embeddings: bool
    max_position_embeddings: int
    hidden_act: str
    bos_token_id: int | None
    eos_token_id: list[int]


class Router(Struct, frozen=True):
    """How experts are chosen and weighed."""

    score: str
    top_k: int
    renormalize: bool
    select_bias: bool
    scale: float
    shared_experts: int


class Quantization(Struct, frozen=True):
    """How weights are stored."""

    dtype: str
    group_size: int


class Quantizations(Struct, frozen=True):
    """Of the experts, and of every other matrix but the router."""

    experts: Quantization
    dense: Quantization


class Experts(Struct, frozen=True):
    """Where the experts lie; `crc32c` has 8 digits per tile and one string per expert."""

    file: str
    data_offset: int
    tiles: int
    tile_width: int
    tile_bytes: int
    expert_bytes: int
    crc32c: list[str]

    def tile_crc32c(self, index: int, tile: int) -> str:
        """The checksum of a tile of the expert at `index`, layer-major."""
        return self.crc32c[index][8 * tile : 8 * tile + 8]

    def offset(self, index: int, tile: int = 0) -> int:
        """Where that tile begins in the file."""
        return self.data_offset + index * self.expert_bytes + tile * self.tile_bytes

    def all_tiles(self, pack: Path) -> Tiles:
        """Every tile of every expert, for measuring how fast they are read."""
        count = len(self.crc32c) * self.tiles
        return Tiles(pack / self.file, self.data_offset, self.tile_bytes, count)


class DenseMatrix(Struct, frozen=True, tag_field="kind", tag="matrix"):
    """A packed matrix; `offset` counts from the first byte of data."""

    dtype: str
    group_size: int
    rows: int
    cols: int
    offset: int
    bytes: int
    crc32c: str


class DenseVector(Struct, frozen=True, tag_field="kind", tag="vector"):
    """Float32 values, padded; `offset` counts from the first byte of data."""

    dtype: str
    length: int
    offset: int
    bytes: int
    crc32c: str


class Dense(Struct, frozen=True):
    """Where everything lies that is not an expert."""

    file: str
    data_offset: int
    tensors: dict[str, DenseMatrix | DenseVector]


class PackFile(Struct, frozen=True):
    """A file of the pack."""

    bytes: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What a pack is.

    Attributes:
        sha256: of manifest.json, which names the pack. Not in the file.
        checksum: the CRC-32C of the text before it.
        quantization_error, provenance: free-form; read `weight_errors` and `source_config_sha256`.
    """

    format: str
    format_version: int
    requires: list[str]
    architecture: str
    config: ModelConfig
    router: Router
    expert_ffn: str
    quantization: Quantizations
    experts: Experts
    dense: Dense
    files: dict[str, PackFile]
    quantization_error: Any = UNSET
    provenance: Any = UNSET
    checksum: str = msgspec.field(name="~crc32c")
    sha256: str = ""

    @classmethod
    def read(cls, pack: Path) -> "Manifest":
        """The manifest of a pack, after the core has checked it and the sizes of all files.

        Raises:
            PackError: the pack is missing, damaged or of another version.
        """
        from adapmoe import _core

        text = _core.inspect_pack(str(pack)).encode()
        try:
            found = msgspec.json.decode(text, type=cls)
        except (ValueError, RecursionError) as error:  # a free-form field that Python cannot hold
            raise PackError(f"{pack / FILE}: {error}; export the pack again") from error
        return msgspec.structs.replace(found, sha256=hashlib.sha256(text).hexdigest())

    @property
    def expert_ids(self) -> list[tuple[int, int]]:
        """(layer, expert) of all experts, in the order of the file."""
        layers, experts = self.config.num_hidden_layers, self.config.num_local_experts
        return [(layer, expert) for layer in range(layers) for expert in range(experts)]

    def expert_index(self, layer: int, expert: int) -> int:
        """The place of an expert in the file."""
        return layer * self.config.num_local_experts + expert

    @property
    def weight_errors(self) -> dict[str, float]:
        """Relative RMSE by kind of tensor, where the manifest has the exporter's shape."""
        errors = self.quantization_error
        found = {
            kind: error.get("relative_rmse") if isinstance(error, dict) else None
            for kind, error in (errors.items() if isinstance(errors, dict) else ())
        }
        return {kind: rmse for kind, rmse in found.items() if isinstance(rmse, float)}

    @property
    def source_config_sha256(self) -> str | None:
        """SHA-256 of the checkpoint's config.json; None where the manifest does not say."""
        origin = self.provenance
        found = origin.get("source_config_sha256") if isinstance(origin, dict) else None
        return found if isinstance(found, str) else None

    def as_json(self) -> dict[str, Any]:
        """The file's content, ready for JSON."""
        content: dict[str, Any] = msgspec.to_builtins(self, order="sorted")
        del content["sha256"]
        return content


@dataclass(frozen=True)
class PackGeometry:
    """Counts, and sizes in bytes.

    Attributes:
        manifest_sha256: which pack.
        fixed_bytes: what a session takes besides experts: dense weights, KV cache and scratch.
    """

    manifest_sha256: str
    num_layers: int
    num_experts: int
    top_k: int
    expert_bytes: int
    fixed_bytes: int

    @classmethod
    def of(cls, manifest: Manifest, split: "MemorySplit") -> "PackGeometry":
        """Of a pack that is open with this memory split."""
        return cls(
            manifest.sha256,
            manifest.config.num_hidden_layers,
            manifest.config.num_local_experts,
            manifest.router.top_k,
            manifest.experts.expert_bytes,
            split.dense_bytes + split.kv_bytes + split.scratch_bytes,
        )

    @property
    def experts(self) -> int:
        """How many there are in all layers."""
        return self.num_layers * self.num_experts

    @property
    def cycle(self) -> int:
        """Experts that one token needs."""
        return self.num_layers * self.top_k

    @property
    def everything_bytes(self) -> int:
        """The ceiling from which on all experts are resident."""
        return self.fixed_bytes + self.experts * self.expert_bytes

    def capacity(self, memory_bytes: int) -> int:
        """Whole experts that fit under a ceiling; negative below `fixed_bytes`."""
        return min((memory_bytes - self.fixed_bytes) // self.expert_bytes, self.experts)


def manifest_sha256(pack: Path) -> str:
    """SHA-256 of `manifest.json`, which names a pack: 64 hex digits. Nothing is checked.

    Raises:
        PackError: it cannot be read.
    """
    path = pack / FILE
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PackError(f"{path}: cannot be read: {error.strerror}") from error


# What the exporter may put beside the weights.
SMALL_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
_REMEDY = "copy or export the pack again"


def check_small_files(pack: Path, manifest: Manifest) -> None:
    """Compare the SHA-256 of every small file with the manifest.

    Args:
        pack: its directory.
        manifest: as `Manifest.read` returns it, so that every file it lists is a regular file of
            the right size.

    Raises:
        PackError: a file is damaged, or there though the manifest does not list it.
    """
    for name in SMALL_FILES:
        path, listed = pack / name, manifest.files.get(name)
        if listed is None:
            if path.exists() or path.is_symlink():
                raise PackError(f"{path}: not listed in the manifest's files; {_REMEDY}")
            continue
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != listed.sha256:
            raise PackError(
                f"{path}: SHA-256 is {found}, expected {listed.sha256}; the file was "
                f"changed or damaged, {_REMEDY}"
            )
