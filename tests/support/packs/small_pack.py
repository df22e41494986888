# SPDX-License-Identifier: Apache-2.0
"""A valid pack of a few small experts filled with noise, for tests that read but do not compute."""

import hashlib
import json
from pathlib import Path

import numpy as np

from support.packs.manifest_edit import signed_text
from support.packs.packed_reference import crc32c

HIDDEN = TILE_WIDTH = 16
TILE_BYTES = 4096  # three f32 matrices of 16 x 16, padded to a page
CONFIG = {
    "hidden_size": HIDDEN,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 16,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "bos_token_id": None,
    "eos_token_id": [],
}
ROUTER = {
    "score": "softmax",
    "top_k": 2,
    "renormalize": True,
    "select_bias": False,
    "scale": 1.0,
    "shared_experts": 0,
}


def _header(tensors: dict) -> bytes:
    """A safetensors header after which the data begin on a 4 KiB boundary."""
    text = json.dumps(tensors).encode()
    text += b" " * (-(8 + len(text)) % 4096)
    return len(text).to_bytes(8, "little") + text


def write_small_pack(
    folder: Path, layers: int, experts: int, tiles: int, hidden: int = HIDDEN
) -> np.ndarray:
    """Write the pack; returns what every tile holds, uint8 [layers, experts, tiles, tile_bytes].

    A `hidden` size larger than 16 (a multiple of it) makes the tiles larger than TILE_BYTES.
    """
    tile_bytes = -(-3 * 4 * TILE_WIDTH * hidden // 4096) * 4096
    data = np.random.default_rng(6).integers(0, 256, (layers, experts, tiles, tile_bytes), np.uint8)
    expert_bytes = tiles * tile_bytes
    tensors, begin = {}, 0
    for layer in range(layers):
        for expert in range(experts):
            tensors[f"model.layers.{layer}.block_sparse_moe.experts.{expert}"] = {
                "dtype": "U8",
                "shape": [expert_bytes],
                "data_offsets": [begin, begin + expert_bytes],
            }
            begin += expert_bytes
    header = _header(tensors)
    folder.mkdir()
    (folder / "experts.safetensors").write_bytes(header + data.tobytes())
    (folder / "dense.safetensors").write_bytes(_header({}))
    checksums = [
        "".join(f"{crc32c(tile.tobytes()):08x}" for tile in record)
        for record in data.reshape(-1, tiles, tile_bytes)
    ]
    quantization = {"dtype": "f32", "group_size": 16}
    manifest = {
        "format": "adapmoe-pack",
        "format_version": 1,
        "requires": [],
        "architecture": "mixtral",
        "config": CONFIG
        | {
            "hidden_size": hidden,
            "intermediate_size": tiles * TILE_WIDTH,
            "num_hidden_layers": layers,
            "num_local_experts": experts,
        },
        "router": ROUTER,
        "expert_ffn": "swiglu",
        "quantization": {"experts": quantization, "dense": quantization},
        "experts": {
            "file": "experts.safetensors",
            "data_offset": len(header),
            "tiles": tiles,
            "tile_width": TILE_WIDTH,
            "tile_bytes": tile_bytes,
            "expert_bytes": expert_bytes,
            "crc32c": checksums,
        },
        "dense": {"file": "dense.safetensors", "data_offset": 4096, "tensors": {}},
        "files": {
            file.name: {
                "bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            for file in sorted(folder.iterdir())
        },
    }
    (folder / "manifest.json").write_bytes(signed_text(manifest))
    return data


def complete_all(rig):
    """Finish every read of a CacheRig."""
    while rig.queued():
        rig.complete(0)


def load(rig, layer, expert):
    """Make an expert resident, held by nobody."""
    hold = rig.acquire(layer, expert)
    complete_all(rig)
    hold.release()
    assert rig.resident(layer, expert)
