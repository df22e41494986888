# SPDX-License-Identifier: Apache-2.0
"""Mixtral: its config.json, its tensor names, its router."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from adapmoe.pack.manifest import ModelConfig
from adapmoe_export.architecture import (
    EMBEDDING,
    HEAD,
    Architecture,
    ConfigFields,
    DenseSource,
    ExpertSpec,
    Json,
    MatrixSource,
    TensorSpec,
    shown,
    whole,
)

# What transformers' MixtralConfig fills in for a field that is left out.
DEFAULTS: Json = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
}
_ROPE_THETA = 1e6  # the same, for a base that is given nowhere

_MAX_HEADS_SIZE = 1 << 20  # num_attention_heads * head_dim
# A smaller base would give frequencies that are no float32.
_SMALLEST_THETA, _LARGEST_THETA = 1e-30, sys.float_info.max


def parse_config(raw: Json, path: Path) -> ModelConfig:
    """Read config.json as transformers 4 or 5 writes it.

    The limits are those of the runtime's manifest reader (runtime/store/manifest.cc). Raises
    CheckpointError.
    """
    fields = ConfigFields(raw, path, DEFAULTS)
    if (act := fields.get("hidden_act")) != "silu":
        raise fields.error(f"hidden_act is {shown(act)}; only 'silu' is implemented")
    hidden_size = fields.integer("hidden_size", 1, 1 << 20)
    heads = fields.integer("num_attention_heads", 1, 4096)
    experts = _experts(fields)
    vocab_size = fields.integer("vocab_size", 1, 1 << 26)
    bos = fields.token_ids("bos_token_id", vocab_size)
    if len(bos) > 1:
        raise fields.error(f"bos_token_id is {shown(bos)}, expected one id or null")
    return ModelConfig(
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size", 1, 1 << 24),
        num_hidden_layers=fields.integer("num_hidden_layers", 1, 4096),
        num_attention_heads=heads,
        num_key_value_heads=_kv_heads(fields, heads),
        head_dim=_head_dim(fields, hidden_size, heads),
        vocab_size=vocab_size,
        num_local_experts=experts,
        num_experts_per_tok=fields.integer("num_experts_per_tok", 1, min(experts, 256)),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-30, 1.0),
        rope_theta=_rope_theta(fields, path),
        sliding_window=_sliding_window(fields),
        tie_word_embeddings=fields.boolean("tie_word_embeddings"),
        max_position_embeddings=fields.integer("max_position_embeddings", 1, 1 << 26),
        hidden_act="silu",
        bos_token_id=bos[0] if bos else None,
        eos_token_id=fields.token_ids("eos_token_id", vocab_size),
    )


def _experts(fields: ConfigFields) -> int:
    """`num_local_experts`, which transformers also reads by the name `num_experts`."""
    if not fields.is_given("num_experts"):
        return fields.integer("num_local_experts", 1, 65536)
    experts = fields.integer("num_experts", 1, 65536)
    if fields.is_given("num_local_experts") and fields.get("num_local_experts") != experts:
        other = shown(fields.get("num_local_experts"))
        raise fields.error(f"num_local_experts is {other}, but num_experts is {experts}")
    return experts


def _kv_heads(fields: ConfigFields, heads: int) -> int:
    if fields.get("num_key_value_heads") is None:  # null, as early versions wrote it
        return heads
    kv_heads = fields.integer("num_key_value_heads", 1, heads)
    if heads % kv_heads:
        raise fields.error(
            f"num_attention_heads is {heads}, which is no multiple of num_key_value_heads "
            f"{kv_heads}"
        )
    return kv_heads


def _head_dim(fields: ConfigFields, hidden_size: int, heads: int) -> int:
    if fields.get("head_dim") is not None:
        head_dim = fields.integer("head_dim", 2, 1024)
    elif hidden_size % heads == 0:
        head_dim = hidden_size // heads
    else:
        raise fields.error(
            f"hidden_size {hidden_size} does not divide into {heads} heads; give head_dim"
        )
    if head_dim % 2 or not 2 <= head_dim <= 1024:
        raise fields.error(f"head_dim is {head_dim}, expected an even number from 2 to 1024")
    if heads * head_dim > _MAX_HEADS_SIZE:
        raise fields.error(
            f"{heads} heads of {head_dim} are {heads * head_dim} rows, expected at most "
            f"{_MAX_HEADS_SIZE}"
        )
    return head_dim


def _sliding_window(fields: ConfigFields) -> int | None:
    """The window, which every layer attends through; None: all layers see everything."""
    window = None
    if fields.get("sliding_window") is not None:
        window = fields.integer("sliding_window", 1, 1 << 30)
    expected = "full_attention" if window is None else "sliding_attention"
    kinds = fields.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != expected for kind in kinds):
        raise fields.error(
            f"layer_types is {shown(kinds)}; sliding_window {window} goes with {expected!r} in "
            "every layer only"
        )
    return window


def _rope_theta(fields: ConfigFields, path: Path) -> float:
    """`rope_theta` (transformers 4) or `rope_parameters` (5); only the unscaled kind."""
    if fields.get("rope_scaling") and fields.get("rope_parameters"):
        raise fields.error(
            "rope_scaling and rope_parameters are both given, and transformers reads the first "
            "only; remove one"
        )
    thetas = []
    if fields.get("rope_theta") is not None:
        thetas.append(fields.number("rope_theta", _SMALLEST_THETA, _LARGEST_THETA))
    for key in ("rope_scaling", "rope_parameters"):
        rope = fields.get(key)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise fields.error(f"{key} is {shown(rope)}, expected an object or null")
        kinds = [rope[name] for name in ("rope_type", "type") if name in rope]
        if any(k != "default" for k in kinds) or set(rope) - {"rope_type", "type", "rope_theta"}:
            raise fields.error(f"{key} is {shown(rope)}; only rope_type 'default' is implemented")
        if "rope_theta" in rope:
            inner = ConfigFields(rope, path, {})
            thetas.append(inner.number("rope_theta", _SMALLEST_THETA, _LARGEST_THETA))
    if len(set(thetas)) > 1:
        raise fields.error(f"rope_theta is given as {thetas[0]} and as {thetas[-1]}")
    if not thetas and fields.is_given("rope_theta"):
        raise fields.error("rope_theta is null, and rope_parameters gives no base either")
    return thetas[0] if thetas else _ROPE_THETA


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
    sources = [_dense(EMBEDDING, (vocab, hidden), "matrix", "embed_tokens")]
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
        sources.append(_dense(HEAD, (vocab, hidden), "matrix", "lm_head"))
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
    tied_head = config.tie_word_embeddings and name == HEAD
    return tied_head or name.endswith(".rotary_emb.inv_freq")


def published_name(name: str) -> str:
    """Undo what software does to the published names.

    In memory, transformers 5 calls the block `mlp`, and a raw state_dict keeps that name. The bare
    MixtralModel saves its tensors without the prefix `model.`.
    """
    if name.split(".")[0] in ("embed_tokens", "layers", "norm", "rotary_emb"):
        name = f"model.{name}"
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
