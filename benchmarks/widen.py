# SPDX-License-Identifier: Apache-2.0
"""Run as a program: widens a Mixtral checkpoint into a pack that computes the same function.

Every feature appears several times: what writes features is tiled, what reads them is tiled and
divided by the number of copies. Attention heads are tiled likewise; dimension d of a narrow head
sits at d * (wide head_dim / narrow head_dim), the rest is zero. So real routing and real text can
be measured at the size of Mixtral-8x7B. The wide weights exist in the pack only, which is streamed
expert by expert.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from adapmoe.pack.calibration import (
    read_calibration,
    read_first_layer_gate,
    write_calibration,
)
from adapmoe.pack.manifest import Manifest
from adapmoe_export import ExportError
from adapmoe_export.architecture import DenseSource, TensorSpec
from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.matrix_packer import rope_inv_freq
from adapmoe_export.pack_writer import write_pack
from adapmoe_export.plan import DTYPES, GROUP_SIZES, ROPE_INV_FREQ, ExportOptions, make_plan
from adapmoe_export.safetensors_file import Weights
from adapmoe_export.source import open_checkpoint

# The layer shape of Mixtral-8x7B.
MIXTRAL_8X7B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


@dataclass(frozen=True)
class Axis:
    """Rows or columns of a wide matrix: where each comes from, and how often each narrow one is."""

    source: np.ndarray  # int [wide], -1: zero
    copies: int


def tiled(narrow, wide):
    """An axis of `wide` features that repeats one of `narrow`."""
    return Axis(np.arange(wide) % narrow, wide // narrow)


def tiled_heads(narrow_heads, narrow_dim, wide_heads, wide_dim):
    """An axis of heads that repeats the narrow heads, the dimensions of each spread out."""
    head, dim = np.divmod(np.arange(wide_heads * wide_dim), wide_dim)
    step = wide_dim // narrow_dim
    source = head % narrow_heads * narrow_dim + dim // step
    return Axis(np.where(dim % step == 0, source, -1), wide_heads // narrow_heads)


class WidenedCheckpoint(HfCheckpoint):
    """A checkpoint whose tensors have the shapes of `config` and are made when they are read."""

    def __init__(self, path, config):
        """`config` is a ModelConfig that check_shape() accepted."""
        super().__init__(path)
        narrow, plan = open_checkpoint(path, ExportOptions())
        if plan.fused:
            raise ExportError(f"{path}: fused experts cannot be widened; export them unfused first")
        self.dtypes = narrow.dtypes
        self.config_bytes = json.dumps(msgspec.structs.asdict(config), sort_keys=True).encode()
        self._names = {spec.name: spec.name for spec in plan.sources()} | {ROPE_INV_FREQ: ""}
        self._narrow = {
            spec.name: narrow.read(spec, 0, math.prod(spec.shape[:-1])).to_float32()
            for spec in plan.sources()
        }
        self._narrow[ROPE_INV_FREQ] = rope_inv_freq(plan.config)[np.newaxis]
        self._axes = axes(plan.config, config)

    def itemsize(self, spec):
        """Everything is read as float32."""
        return 4

    def describe(self, name):
        """The narrow tensor, for messages."""
        return f"{self.path}: tensor {name}, widened"

    def read(self, spec, first_row, rows):
        """Rows of the wide tensor, float32 [rows, last dimension]."""
        narrow = self._narrow[spec.name]
        kind = spec.name.removesuffix(".weight").rsplit(".", 1)[-1]
        row_axis, col_axis, scale = self._axes.get(kind, self._axes["norm"])
        picked = slice(first_row, first_row + rows)
        source_rows = np.array([0]) if row_axis is None else row_axis.source[picked]
        wide = narrow.take(source_rows, axis=0).take(col_axis.source, axis=1)
        wide *= np.float32(scale)
        wide[source_rows < 0] = 0
        wide[:, col_axis.source < 0] = 0
        return Weights(wide, "f32")


def axes(narrow, wide):
    """{last part of a tensor's name: (row axis, column axis, scale)}; "norm": vectors."""
    hidden = tiled(narrow.hidden_size, wide.hidden_size)
    inner = tiled(narrow.intermediate_size, wide.intermediate_size)
    vocab = tiled(narrow.vocab_size, narrow.vocab_size)
    experts = tiled(narrow.num_local_experts, narrow.num_local_experts)
    dims = (narrow.head_dim, wide.head_dim)
    heads = tiled_heads(narrow.num_attention_heads, dims[0], wide.num_attention_heads, dims[1])
    kv_heads = tiled_heads(narrow.num_key_value_heads, dims[0], wide.num_key_value_heads, dims[1])
    pairs = tiled_heads(1, narrow.head_dim // 2, 1, wide.head_dim // 2)
    read = 1 / hidden.copies
    # Attention divides by sqrt(head_dim), which has grown.
    query = read * math.sqrt(wide.head_dim / narrow.head_dim)
    return {
        "embed_tokens": (vocab, hidden, 1.0),
        "norm": (None, hidden, 1.0),
        "q_proj": (heads, hidden, query),
        "k_proj": (kv_heads, hidden, read),
        "v_proj": (kv_heads, hidden, read),
        "o_proj": (hidden, heads, 1 / heads.copies),
        "gate": (experts, hidden, read),
        "w1": (inner, hidden, read),
        "w3": (inner, hidden, read),
        "w2": (hidden, inner, 1 / inner.copies),
        "lm_head": (vocab, hidden, read),
        "inv_freq": (None, pairs, 1.0),
    }


def check_shape(narrow, wide):
    """Raises ExportError unless every wide size is a multiple of the narrow one.

    A model of fewer layers, or of a longer context than it was trained for, is for timing.
    """
    if not 1 <= wide.num_hidden_layers <= narrow.num_hidden_layers:
        raise ExportError(
            f"num_hidden_layers {wide.num_hidden_layers}: expected 1 to "
            f"{narrow.num_hidden_layers}, the checkpoint's, of which the first are taken"
        )
    for name in MIXTRAL_8X7B:
        small, large = getattr(narrow, name), getattr(wide, name)
        if large < small or large % small:
            raise ExportError(f"{name} {large}: expected a multiple of the checkpoint's {small}")
    heads, kv_heads = wide.num_attention_heads, wide.num_key_value_heads
    if heads * narrow.num_key_value_heads != kv_heads * narrow.num_attention_heads:
        raise ExportError(
            f"{heads} heads on {kv_heads} KV heads: expected as many heads per KV head as the "
            "checkpoint has"
        )
    if narrow.tie_word_embeddings:
        raise ExportError("a tied head reads what the embedding writes, so it cannot be widened")


def widen(source, out, shape=None, progress=None, **options):
    """Write the pack of the widened checkpoint; return its manifest.

    `shape` changes fields of MIXTRAL_8X7B and any other of the config, such as
    `num_hidden_layers`; `options` are those of ExportOptions. Raises CheckpointError and
    ExportError.
    """
    options = ExportOptions(**options)
    _, narrow_plan = open_checkpoint(source, options=ExportOptions())
    config = msgspec.structs.replace(narrow_plan.config, **(MIXTRAL_8X7B | (shape or {})))
    check_shape(narrow_plan.config, config)
    plan = make_plan(narrow_plan.architecture, config, options)
    # The frequencies of a wide head are the narrow ones spread out, not those of its head_dim.
    at = next(i for i, tensor in enumerate(plan.dense) if tensor.name == ROPE_INV_FREQ)
    frequencies = DenseSource(TensorSpec(ROPE_INV_FREQ, plan.dense[at].shape), "vector")
    plan.dense[at] = replace(plan.dense[at], source=frequencies)
    return write_pack(WidenedCheckpoint(source, config), plan, out, progress=progress)


BYTES_PER_TOKEN = ("bytes_per_token", "bytes_per_token_without")


def carry_calibration(narrow_pack, wide_pack):
    """Give a wide pack the calibration of the narrow one: they route and err alike.

    The first-layer gate reads features, so it is widened; bytes are scaled by those of an expert.
    Raises PackError and CalibrationError.
    """
    narrow, wide = (Manifest.read(pack) for pack in (narrow_pack, wide_pack))
    calibration = read_calibration(narrow_pack)
    gate = read_first_layer_gate(narrow_pack, calibration)
    features = tiled(narrow.config.hidden_size, wide.config.hidden_size)
    larger = wide.experts.expert_bytes / narrow.experts.expert_bytes
    scaled = {}
    for mode in ("sensitivity", "residency"):
        threshold = calibration.gating.threshold(mode)
        if threshold is not None:
            read = {name: getattr(threshold, name) for name in BYTES_PER_TOKEN}
            read = {name: nbytes * larger for name, nbytes in read.items() if nbytes is not None}
            scaled[mode] = msgspec.structs.replace(threshold, **read)
    gating = msgspec.structs.replace(calibration.gating, **scaled)
    calibration = msgspec.structs.replace(calibration, gating=gating)
    write_calibration(wide_pack, calibration, gate[:, features.source] / features.copies)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="Hugging Face Mixtral directory")
    parser.add_argument("out", type=Path, help="the pack to write")
    for name, size in MIXTRAL_8X7B.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size)
    parser.add_argument("--layers", type=int, help="the first ones; default: all")
    parser.add_argument("--context", type=int, help="tokens; default: what it was trained for")
    parser.add_argument("--experts", choices=DTYPES, default="int4")
    parser.add_argument("--dense", choices=DTYPES, default="int8")
    parser.add_argument("--group-size", type=int, choices=GROUP_SIZES, default=32)
    parser.add_argument("--tile-width", type=int, help="columns per tile; default: chosen")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument(
        "--calibration-of", type=Path, help="the checkpoint's own pack, calibrated: carry it over"
    )
    arguments = parser.parse_args()
    shape = {name: getattr(arguments, name) for name in MIXTRAL_8X7B}
    if arguments.layers is not None:
        shape["num_hidden_layers"] = arguments.layers
    if arguments.context is not None:
        shape["max_position_embeddings"] = arguments.context
    began = time.perf_counter()
    manifest = widen(
        arguments.checkpoint,
        arguments.out,
        shape,
        experts=arguments.experts,
        dense=arguments.dense,
        group_size=arguments.group_size,
        tile_width=arguments.tile_width,
        overwrite=arguments.overwrite,
    )
    if arguments.calibration_of is not None:
        carry_calibration(arguments.calibration_of, arguments.out)
    nbytes = sum(file["bytes"] for file in manifest["files"].values())
    print(f"{arguments.out}: {nbytes:,} bytes in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
