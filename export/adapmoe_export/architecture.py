# SPDX-License-Identifier: Apache-2.0
"""What the exporter needs to know of an architecture: its config, its tensors, its router."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Json = dict[str, Any]


@dataclass(frozen=True)
class ModelConfig:
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


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that the checkpoint must hold. `router` is a matrix that is never quantized."""

    name: str
    shape: tuple[int, ...]
    role: Literal["matrix", "router", "vector"]
    kind: str = ""  # row of the error report, such as "q_proj"


@dataclass(frozen=True)
class ExpertSpec:
    """The three matrices of one expert."""

    gate_proj: TensorSpec  # [intermediate_size, hidden_size]
    up_proj: TensorSpec  # [intermediate_size, hidden_size]
    down_proj: TensorSpec  # [hidden_size, intermediate_size]

    def tensors(self) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
        """All three."""
        return self.gate_proj, self.up_proj, self.down_proj


@dataclass(frozen=True)
class Architecture:
    """One row of the registry."""

    name: str
    expert_ffn: str
    parse_config: Callable[[Json, Path], ModelConfig]  # raises CheckpointError
    router: Callable[[ModelConfig], Json]  # the manifest's router spec
    dense_tensors: Callable[[ModelConfig], list[TensorSpec]]  # everything that is not an expert
    expert: Callable[[ModelConfig, int, int], ExpertSpec]  # (config, layer, expert)
    # Tensors that some checkpoints carry and that hold nothing of their own.
    ignores: Callable[[ModelConfig, str], bool]
