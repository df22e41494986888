# SPDX-License-Identifier: Apache-2.0
"""A pack's tensors as llama.cpp's architecture "llama" wants them, with the very same weights.

An int4 group of 32 and a Q4_0 block are the same numbers: 32 nibbles `q + 8` and an fp16 scale. So
only bytes move, and nothing is rounded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapmoe.pack.manifest import DenseMatrix, DenseVector, Manifest, Quantization
from adapmoe.pack.weights import tile_parts, tile_shapes

GROUP = 32
Q4_0_BYTES = 2 + GROUP // 2
_STOPPED = 1e30  # divides a frequency of RoPE that is zero

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "block_sparse_moe.gate",
}


@dataclass(frozen=True)
class GgufTensor:
    """Made when `read` is called: uint8 `[..., bytes of a row]` where quantized, else float32."""

    name: str
    quantized: bool
    shape: tuple[int, ...]  # of what `read` returns
    read: Callable[[], np.ndarray]


def q4_0_rows(packed: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """A packed int4 matrix (export/FORMAT.md) of group size 32 as Q4_0, uint8 [rows, row bytes]."""
    groups = -(-cols // GROUP)
    blocks = packed.reshape(-(-rows // 16), -1)
    quants_at = -(-32 * groups // 64) * 64
    scales = blocks[:, : 32 * groups].reshape(-1, groups, 16, 2)
    words = blocks[:, quants_at:].reshape(-1, groups, 4, 16, 4)  # 4 words of 8 columns per group
    first, second = words[:, :, :2], words[:, :, 2:]  # columns 0-15 and 16-31
    out = np.empty((len(blocks), 16, groups, Q4_0_BYTES), np.uint8)
    out[..., :2] = scales.transpose(0, 2, 1, 3)
    halves = out[..., 2:].reshape(len(blocks), 16, groups, 2, 2, 4)  # word, half of it, byte
    halves[..., 0, :] = (first & 15 | second << 4).transpose(0, 3, 1, 2, 4)
    halves[..., 1, :] = (first >> 4 | second & 240).transpose(0, 3, 1, 2, 4)
    out[..., 2:] = halves.reshape(len(blocks), 16, groups, 16)
    return out.reshape(-1, groups * Q4_0_BYTES)[:rows]


def interleave_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q_proj or k_proj: llama.cpp rotates neighbours, Hugging Face the halves of a head."""
    halves = rows.reshape(heads, 2, -1, rows.shape[-1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


class PackTensors:
    """Everything that goes into the GGUF of a pack with int4 groups of 32 throughout."""

    def __init__(self, pack: Path) -> None:
        """Raises ValueError unless all that is quantized is int4 in groups of 32."""
        self.manifest = Manifest.read(pack)
        self.config = self.manifest.config
        stored, int4 = self.manifest.quantization, Quantization("int4", GROUP)
        if stored.experts != int4 or stored.dense != int4:
            raise ValueError(
                f"{pack}: only int4 in groups of 32 is Q4_0; export with --experts int4 "
                "--dense int4 --group-size 32"
            )
        self._dense, self._experts = (
            np.memmap(pack / part.file, np.uint8, "r", offset=part.data_offset)
            for part in (self.manifest.dense, self.manifest.experts)
        )

    def __iter__(self) -> Iterator[GgufTensor]:
        """All tensors, in the order of the layers."""
        yield self._rope()
        yield self._of_dense("token_embd", "model.embed_tokens")
        for layer in range(self.config.num_hidden_layers):
            for name, ours in LAYER_TENSORS.items():
                yield self._of_dense(f"blk.{layer}.{name}", f"model.layers.{layer}.{ours}")
            for part, name in enumerate(("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")):
                yield self._of_experts(f"blk.{layer}.{name}.weight", layer, part)
        yield self._of_dense("output_norm", "model.norm")
        if not self.config.tie_word_embeddings:
            yield self._of_dense("output", "lm_head")

    def _place(self, name: str) -> tuple[DenseMatrix | DenseVector, np.ndarray]:
        place = self.manifest.dense.tensors[name]
        return place, self._dense[place.offset : place.offset + place.bytes]

    def _vector(self, name: str) -> np.ndarray:
        place, data = self._place(name)
        return data.view(np.float32)[: place.length]

    def _rope(self) -> GgufTensor:
        """Divisors of the frequency 1, which is what a base of 1 gives for every pair."""

        def read() -> np.ndarray:
            frequencies = self._vector("rope.inv_freq")
            divisors = np.full(len(frequencies), _STOPPED, np.float32)
            return np.divide(np.float32(1), frequencies, out=divisors, where=frequencies > 0)

        length = self.manifest.dense.tensors["rope.inv_freq"].length
        return GgufTensor("rope_freqs.weight", False, (length,), read)

    def _of_dense(self, name: str, ours: str) -> GgufTensor:
        place, data = self._place(f"{ours}.weight")
        name = f"{name}.weight"
        if isinstance(place, DenseVector):
            return GgufTensor(name, False, (place.length,), lambda: self._vector(f"{ours}.weight"))
        rows, cols = place.rows, place.cols
        if place.dtype == "f32":
            return GgufTensor(name, False, (rows, cols), lambda: f32_rows(data, rows, cols))
        config = self.config
        heads = {
            "q_proj": config.num_attention_heads,
            "k_proj": config.num_key_value_heads,
        }.get(ours.rsplit(".", 1)[-1])

        def read() -> np.ndarray:
            packed = q4_0_rows(data, rows, cols)
            return packed if heads is None else interleave_pairs(packed, heads)

        return GgufTensor(name, True, (rows, cols // GROUP * Q4_0_BYTES), read)

    def _of_experts(self, name: str, layer: int, part: int) -> GgufTensor:
        """One projection of all experts of a layer; `part`: gate, up, down."""
        hidden, inner = self.config.hidden_size, self.config.intermediate_size
        rows, cols = (hidden, inner) if part == 2 else (inner, hidden)
        experts = self.config.num_local_experts
        shape = (experts, rows, cols // GROUP * Q4_0_BYTES)

        def read() -> np.ndarray:
            out = np.empty(shape, np.uint8)
            for expert in range(experts):
                whole = self._projection(layer * experts + expert, part)
                out[expert] = whole[:rows, : shape[2]]
            return out

        return GgufTensor(name, True, shape, read)

    def _projection(self, record: int, part: int) -> np.ndarray:
        """Put a projection together from the tiles of an expert, padding included."""
        place, shapes = self.manifest.experts, tile_shapes(self.manifest)
        size, shape = place.expert_bytes, shapes[part]
        tiles = self._experts[record * size : (record + 1) * size].reshape(place.tiles, -1)
        parts = [q4_0_rows(tile_parts(t, shapes)[part], shape.rows, shape.cols) for t in tiles]
        return np.concatenate(parts, axis=1 if part == 2 else 0)


def f32_rows(packed: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """A packed f32 matrix as rows."""
    blocks = packed.view(np.float32).reshape(-(-rows // 16), -1, 16)
    unpacked = blocks.transpose(0, 2, 1).reshape(-1, blocks.shape[1])
    return np.ascontiguousarray(unpacked[:rows, :cols])
