# SPDX-License-Identifier: Apache-2.0
"""Small random Mixtral checkpoints, laid out as Hugging Face publishes them."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


def make_config(**changes):
    """config.json as transformers 4 writes it. In `changes`, None is null and ... drops the key."""
    config = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 67,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "max_position_embeddings": 256,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | changes
    return {key: value for key, value in config.items() if value is not ...}


def tensor_shapes(config):
    """{name: shape} for a config, with the published names."""
    hidden, wide, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.self_attn.q_proj.weight"] = (heads * head_dim, hidden)
        shapes[f"{prefix}.self_attn.k_proj.weight"] = (kv_heads * head_dim, hidden)
        shapes[f"{prefix}.self_attn.v_proj.weight"] = (kv_heads * head_dim, hidden)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (hidden, heads * head_dim)
        moe = f"{prefix}.block_sparse_moe"
        shapes[f"{moe}.gate.weight"] = (config["num_local_experts"], hidden)
        for expert in range(config["num_local_experts"]):
            shapes[f"{moe}.experts.{expert}.w1.weight"] = (wide, hidden)
            shapes[f"{moe}.experts.{expert}.w2.weight"] = (hidden, wide)
            shapes[f"{moe}.experts.{expert}.w3.weight"] = (wide, hidden)
    return shapes


def make_tensors(config, seed=0, dtype="BF16"):
    """{name: array} for a config, with the published names."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape) * 0.05).astype(DTYPES[dtype])
        for name, shape in tensor_shapes(config).items()
    }


def fuse_experts(config, tensors, block="mlp"):
    """The same weights as transformers 5 holds them in memory: two tensors for all experts."""
    fused = {
        name.replace(".block_sparse_moe.", f".{block}."): tensor
        for name, tensor in tensors.items()
        if ".experts." not in name
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.block_sparse_moe.experts"
        gate_up, down = [], []
        for expert in range(config["num_local_experts"]):
            w1, w2, w3 = (tensors[f"{prefix}.{expert}.w{i}.weight"] for i in (1, 2, 3))
            gate_up.append(np.concatenate([w1, w3]))
            down.append(w2)
        prefix = f"model.layers.{layer}.{block}.experts"
        fused[f"{prefix}.gate_up_proj"] = np.stack(gate_up)
        fused[f"{prefix}.down_proj"] = np.stack(down)
    return fused


def write_checkpoint(path: Path, config, tensors, shards=1) -> Path:
    """Write a checkpoint; more than one shard comes with an index."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, path / "model.safetensors")
        return path
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
        save_file(part, path / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path
