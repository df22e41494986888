# SPDX-License-Identifier: Apache-2.0
"""Bytes of weights and of KV cache that each part of a step must read from memory."""

from collections.abc import Iterable
from typing import Any

from adapmoe.expert_weights import tile_shapes

_KV_BYTES = 2  # float16, the default of LLM
_LAYER_TENSORS = {
    "norm": ("input_layernorm",),
    "qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o_proj": ("self_attn.o_proj",),
    "router": ("block_sparse_moe.gate",),
}


class MemoryTraffic:
    """Of one pack. Activations are left out: they stay in the caches of the processor."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        """`manifest`: of a pack that a session has validated."""
        self._tensors = manifest["dense"]["tensors"]
        self._config = manifest["config"]
        gate, up, down = (shape.nbytes for shape in tile_shapes(manifest))
        tiles = manifest["experts"]["tiles"]
        self.gate_up_bytes = tiles * (gate + up)  # of an expert
        self.down_bytes = tiles * down

    def span_bytes(self, name: str, layer: int) -> int | None:
        """What a span of `Session.timeline()` reads; None where that is not known.

        Args:
            name: of the span.
            layer: -1 where it belongs to none.
        """
        if name == "head":
            tied = self._config["tie_word_embeddings"]
            return self._bytes("model.embed_tokens" if tied else "lm_head")
        if name not in _LAYER_TENSORS:
            return None
        if layer < 0:
            return self._bytes("model.norm")
        return sum(self._bytes(f"model.layers.{layer}.{part}") for part in _LAYER_TENSORS[name])

    def kv_bytes(self, positions: Iterable[int]) -> int:
        """Keys and values that decoding one token at each of these positions attends to."""
        config = self._config
        window = config["sliding_window"] or config["max_position_embeddings"]
        attended = sum(min(position + 1, window) for position in positions)
        row = config["num_key_value_heads"] * -(-config["head_dim"] // 16) * 16 * _KV_BYTES
        return int(attended * config["num_hidden_layers"] * 2 * row)

    def _bytes(self, name: str) -> int:
        return int(self._tensors[f"{name}.weight"]["bytes"])
