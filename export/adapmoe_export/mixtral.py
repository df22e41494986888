# SPDX-License-Identifier: Apache-2.0
"""Mixtral: its config.json, its tensor names, its router."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from adapmoe_export.architecture import (
    Architecture,
    DenseSource,
    ExpertSpec,
    Json,
    MatrixSource,
    ModelConfig,
    TensorSpec,
    whole,
)
from adapmoe_export.config_fields import ConfigFields


def parse_config(raw: Json, path: Path) -> ModelConfig:
    """Read config.json as transformers 4 or 5 writes it.

    Keys that may be left out have the value that transformers gives them. Raises CheckpointError.
    """
    fields = ConfigFields(raw, path)
    if (act := fields.get("hidden_act", "silu")) != "silu":
        raise fields.error(f"hidden_act is {act!r}; only 'silu' is implemented")
    hidden_size = fields.positive_int("hidden_size")
    heads = fields.positive_int("num_attention_heads")
    kv_heads = heads
    if fields.get("num_key_value_heads") is not None:
        kv_heads = fields.positive_int("num_key_value_heads")
    if heads % kv_heads:
        raise fields.error(f"{heads} attention heads do not divide into {kv_heads} KV heads")
    experts = fields.positive_int("num_local_experts")
    top_k = fields.positive_int("num_experts_per_tok")
    if top_k > experts:
        raise fields.error(f"num_experts_per_tok is {top_k}, but there are {experts} experts")
    window = fields.get("sliding_window", None)
    vocab_size = fields.positive_int("vocab_size")
    bos = fields.token_ids("bos_token_id", vocab_size, default=1)
    if len(bos) > 1:
        raise fields.error(f"bos_token_id is {bos}, expected one id or null")
    return ModelConfig(
        hidden_size=hidden_size,
        intermediate_size=fields.positive_int("intermediate_size"),
        num_hidden_layers=fields.positive_int("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=_head_dim(fields, hidden_size, heads),
        vocab_size=vocab_size,
        num_local_experts=experts,
        num_experts_per_tok=top_k,
        rms_norm_eps=fields.positive_float("rms_norm_eps"),
        rope_theta=_rope_theta(fields),
        sliding_window=None if window is None else fields.positive_int("sliding_window"),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
        max_position_embeddings=fields.positive_int("max_position_embeddings"),
        hidden_act="silu",
        bos_token_id=bos[0] if bos else None,
        eos_token_id=fields.token_ids("eos_token_id", vocab_size, default=2),
    )


def _head_dim(fields: ConfigFields, hidden_size: int, heads: int) -> int:
    if fields.get("head_dim", None) is not None:
        head_dim = fields.positive_int("head_dim")
    elif hidden_size % heads == 0:
        head_dim = hidden_size // heads
    else:
        raise fields.error(f"hidden_size {hidden_size} does not divide into {heads} heads")
    if head_dim % 2:
        raise fields.error(f"head_dim is {head_dim}; rotary embedding needs an even one")
    return head_dim


def _rope_theta(fields: ConfigFields) -> float:
    """`rope_theta` (transformers 4) or `rope_parameters` (5); only the unscaled kind."""
    thetas = []
    if fields.get("rope_theta", None) is not None:
        thetas.append(fields.positive_float("rope_theta"))
    for key in ("rope_scaling", "rope_parameters"):
        rope = fields.get(key, None)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise fields.error(f"{key} is {rope!r}, expected an object or null")
        kinds = {rope[name] for name in ("rope_type", "type") if name in rope}
        if kinds - {"default"} or set(rope) - {"rope_type", "type", "rope_theta"}:
            raise fields.error(f"{key} is {rope}; only rope_type 'default' is implemented")
        if "rope_theta" in rope:
            thetas.append(ConfigFields(rope, fields.path).positive_float("rope_theta"))
    if not thetas:
        raise fields.error("neither rope_theta nor rope_parameters gives the RoPE base")
    if len(set(thetas)) > 1:
        raise fields.error(f"rope_theta is given as {thetas[0]} and as {thetas[-1]}")
    return thetas[0]


def router(config: ModelConfig) -> Json:
    """Softmax over all experts, the top k of them, weights renormalised to sum to 1."""
    return {
        "score": "softmax",
        "top_k": config.num_experts_per_tok,
        "renormalize": True,
        "select_bias": False,
        "scale": 1.0,
        "shared_experts": 0,
    }


def dense_sources(config: ModelConfig) -> list[DenseSource]:
    """Every tensor of the checkpoint that is not an expert; no lm_head when it is tied."""
    hidden, vocab = config.hidden_size, config.vocab_size
    q_size = config.num_attention_heads * config.head_dim
    kv_size = config.num_key_value_heads * config.head_dim
    projections = {
        "q_proj": (q_size, hidden),
        "k_proj": (kv_size, hidden),
        "v_proj": (kv_size, hidden),
        "o_proj": (hidden, q_size),
    }
    sources = [_dense("model.embed_tokens.weight", (vocab, hidden), "matrix", "embed_tokens")]
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        for name, shape in projections.items():
            sources.append(_dense(f"{prefix}.self_attn.{name}.weight", shape, "matrix", name))
        for name in ("input_layernorm", "post_attention_layernorm"):
            sources.append(_dense(f"{prefix}.{name}.weight", (hidden,), "vector"))
        gate = f"{prefix}.block_sparse_moe.gate.weight"
        sources.append(_dense(gate, (config.num_local_experts, hidden), "router"))
    sources.append(_dense("model.norm.weight", (hidden,), "vector"))
    if not config.tie_word_embeddings:
        sources.append(_dense("lm_head.weight", (vocab, hidden), "matrix", "lm_head"))
    return sources


def _dense(
    name: str, shape: tuple[int, ...], role: Literal["matrix", "router", "vector"], kind: str = ""
) -> DenseSource:
    return DenseSource(TensorSpec(name, shape), role, kind)


def expert(config: ModelConfig, layer: int, expert: int, fused: bool) -> ExpertSpec:
    """One expert's matrices: published (w1 is gate_proj, w3 up_proj, w2 down_proj) or fused."""
    prefix = f"model.layers.{layer}.block_sparse_moe.experts"
    hidden, wide = config.hidden_size, config.intermediate_size
    if fused:
        experts = config.num_local_experts
        gate_up = TensorSpec(f"{prefix}.gate_up_proj", (experts, 2 * wide, hidden))
        down = TensorSpec(f"{prefix}.down_proj", (experts, hidden, wide))
        return ExpertSpec(
            gate_proj=MatrixSource(gate_up, expert * 2 * wide, wide, "gate_proj"),
            up_proj=MatrixSource(gate_up, expert * 2 * wide + wide, wide, "up_proj"),
            down_proj=MatrixSource(down, expert * hidden, hidden, "down_proj"),
        )
    prefix = f"{prefix}.{expert}"
    return ExpertSpec(
        gate_proj=whole(TensorSpec(f"{prefix}.w1.weight", (wide, hidden)), "gate_proj"),
        up_proj=whole(TensorSpec(f"{prefix}.w3.weight", (wide, hidden)), "up_proj"),
        down_proj=whole(TensorSpec(f"{prefix}.w2.weight", (hidden, wide)), "down_proj"),
    )


def ignores(config: ModelConfig, name: str) -> bool:
    """RoPE frequencies follow from the config; a tied head repeats the embedding."""
    tied_head = config.tie_word_embeddings and name == "lm_head.weight"
    return tied_head or name.endswith(".self_attn.rotary_emb.inv_freq")


def published_name(name: str) -> str:
    """In memory, transformers 5 calls the block `mlp`, and a raw state_dict keeps that name."""
    return re.sub(r"^(model\.layers\.\d+)\.mlp\.", r"\1.block_sparse_moe.", name)


def is_fused(names: Iterable[str]) -> bool:
    """Whether the experts of a layer are two tensors, as transformers 5 holds them in memory."""
    return any(name.endswith(".experts.gate_up_proj") for name in names)


MIXTRAL = Architecture(
    name="mixtral",
    expert_ffn="swiglu",
    parse_config=parse_config,
    router=router,
    dense_sources=dense_sources,
    expert=expert,
    ignores=ignores,
    published_name=published_name,
    is_fused=is_fused,
)
