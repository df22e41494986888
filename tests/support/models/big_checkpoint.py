# SPDX-License-Identifier: Apache-2.0
"""A bf16 Mixtral checkpoint of any size, written in seconds: repeated blocks of random weights."""

import json
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from support.models.checkpoints import make_config, tensor_shapes

_BLOCK_WEIGHTS = (1 << 22) - 1  # divides no matrix, so that no two are alike


@dataclass(frozen=True)
class BigCheckpoint:
    path: Path
    weights: int
    largest_tensor_bytes: int


def big_config(hidden_size, intermediate_size, layers, experts, vocab_size=4096):
    return make_config(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_local_experts=experts,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=2,
        vocab_size=vocab_size,
    )


def write_big_checkpoint(path, config) -> BigCheckpoint:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    shapes = tensor_shapes(config)
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    block = np.random.default_rng(0).standard_normal(_BLOCK_WEIGHTS, np.float32) * 0.05
    block = memoryview(block.astype(ml_dtypes.bfloat16).view(np.uint8))
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for begin in range(0, offset, len(block)):
            file.write(block[: offset - begin])
    return BigCheckpoint(
        path, offset // 2, max(2 * int(np.prod(shape)) for shape in shapes.values())
    )
