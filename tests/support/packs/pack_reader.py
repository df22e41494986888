# SPDX-License-Identifier: Apache-2.0
"""Reads a pack by export/FORMAT.md, with NumPy and the safetensors library only."""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from support.packs.packed_reference import block_bytes, unpack


def read_manifest(pack: Path):
    return json.loads((pack / "manifest.json").read_text())


def packed_bytes(rows, cols, dtype, group_size):
    cols_padded = -(-cols // group_size) * group_size
    return -(-rows // 16) * block_bytes(cols_padded, dtype, group_size)


def data_offset(file: Path) -> int:
    return 8 + int.from_bytes(file.read_bytes()[:8], "little")


def read_dense(pack: Path):
    """{name: float32 array} of dense.safetensors, unpadded."""
    tensors = {}
    with safe_open(pack / "dense.safetensors", "numpy") as file:
        for name, place in read_manifest(pack)["dense"]["tensors"].items():
            data = file.get_tensor(name)
            if place["kind"] == "vector":
                assert data.dtype == np.float32
                assert not data[place["length"] :].any()
                tensors[name] = data[: place["length"]]
            else:
                shape = place["rows"], place["cols"]
                tensors[name] = unpack(data, *shape, place["dtype"], place["group_size"])
    return tensors


def read_expert(pack: Path, layer: int, expert: int):
    """(gate_proj, up_proj, down_proj) of one expert, float32, padded to whole tiles."""
    manifest = read_manifest(pack)
    quantization = manifest["quantization"]["experts"]
    dtype, group = quantization["dtype"], quantization["group_size"]
    hidden, width = manifest["config"]["hidden_size"], manifest["experts"]["tile_width"]
    with safe_open(pack / "experts.safetensors", "numpy") as file:
        record = file.get_tensor(f"model.layers.{layer}.block_sparse_moe.experts.{expert}")
    parts = ([], [], [])
    for tile in record.reshape(manifest["experts"]["tiles"], -1):
        begin = 0
        for part, shape in zip(
            parts, ((width, hidden), (width, hidden), (hidden, width)), strict=True
        ):
            end = begin + packed_bytes(*shape, dtype, group)
            part.append(unpack(tile[begin:end], *shape, dtype, group))
            begin = end
        assert not tile[begin:].any()
    return np.concatenate(parts[0]), np.concatenate(parts[1]), np.concatenate(parts[2], axis=1)
