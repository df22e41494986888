# SPDX-License-Identifier: Apache-2.0
"""A pack of random weights whose experts, 168 MiB, are several times the allowed slack."""

from pathlib import Path

from adapmoe_export import export_pack
from support.models.checkpoints import make_config, make_tensors, write_checkpoint


def make_large_pack(folder: Path) -> Path:
    config = make_config(
        hidden_size=512,
        intermediate_size=1792,
        num_hidden_layers=4,
        num_local_experts=8,
        num_attention_heads=8,
        vocab_size=1000,
        max_position_embeddings=512,
    )
    checkpoint = write_checkpoint(folder / "checkpoint", config, make_tensors(config))
    export_pack(checkpoint, folder / "large.adapmoe", experts="f16", tile_width=256)
    return folder / "large.adapmoe"
