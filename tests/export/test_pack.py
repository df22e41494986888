# SPDX-License-Identifier: Apache-2.0
"""What an exported pack holds, read back independently."""

import hashlib
import json

import numpy as np
import pytest
from safetensors import safe_open

from adapmoe import _core
from adapmoe_export import export_pack
from support.models.checkpoints import (
    DTYPES,
    fuse_experts,
    make_config,
    make_tensors,
    write_checkpoint,
)
from support.packs.pack_reader import data_offset, read_dense, read_expert, read_manifest

NAMES = ("w1", "w3", "w2")


def contents(pack):
    return {path.name: path.read_bytes() for path in sorted(pack.iterdir())}


@pytest.fixture(scope="session")
def tiny_pack(tiny_checkpoint, tmp_path_factory):
    pack = tmp_path_factory.mktemp("pack") / "tiny.adapmoe"
    export_pack(tiny_checkpoint, pack, tile_width=64)
    return pack


def test_files_and_hashes(tiny_pack, tiny_checkpoint):
    files = read_manifest(tiny_pack)["files"]
    assert set(files) | {"manifest.json"} == {path.name for path in tiny_pack.iterdir()}
    for name, file in files.items():
        data = (tiny_pack / name).read_bytes()
        assert file == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    tokenizer = (tiny_checkpoint / "tokenizer.json").read_bytes()
    assert (tiny_pack / "tokenizer.json").read_bytes() == tokenizer


def test_manifest_is_canonical(tiny_pack, tiny_checkpoint):
    text = (tiny_pack / "manifest.json").read_text()
    manifest = json.loads(text)
    assert text == json.dumps(manifest, sort_keys=True, indent=2) + "\n"
    assert (manifest["format"], manifest["format_version"]) == ("adapmoe-pack", 1)
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    for key in ("hidden_size", "vocab_size", "num_local_experts", "rms_norm_eps", "rope_theta"):
        assert manifest["config"][key] == config[key]
    assert manifest["provenance"]["source_dtype"] == "BF16"
    for error in manifest["quantization_error"].values():
        assert 0 < error["relative_rmse"] < 0.1
    assert len(manifest["quantization_error"]) == 9


def test_offsets_and_alignment(tiny_pack):
    manifest = read_manifest(tiny_pack)
    dense, experts = manifest["dense"], manifest["experts"]
    for part in (dense, experts):
        offset = data_offset(tiny_pack / part["file"])
        assert offset == part["data_offset"]
        assert offset % 4096 == 0
    assert experts["tile_bytes"] % 4096 == 0
    assert experts["expert_bytes"] == experts["tiles"] * experts["tile_bytes"]
    assert list(dense["tensors"]) == sorted(dense["tensors"])
    end = 0
    for tensor in dense["tensors"].values():
        assert tensor["offset"] == end
        assert tensor["bytes"] % 64 == 0
        end += tensor["bytes"]
    assert manifest["files"]["dense.safetensors"]["bytes"] == dense["data_offset"] + end
    records = len(experts["crc32c"]) * experts["expert_bytes"]
    assert manifest["files"]["experts.safetensors"]["bytes"] == experts["data_offset"] + records


def test_experts_are_layer_major_and_checksummed(tiny_pack):
    experts = read_manifest(tiny_pack)["experts"]
    raw = (tiny_pack / "experts.safetensors").read_bytes()
    with safe_open(tiny_pack / "experts.safetensors", "numpy") as file:
        assert len(list(file.keys())) == 64
        for index, digits in enumerate(experts["crc32c"]):
            name = f"model.layers.{index // 8}.block_sparse_moe.experts.{index % 8}"
            begin = experts["data_offset"] + index * experts["expert_bytes"]
            record = raw[begin : begin + experts["expert_bytes"]]
            assert file.get_tensor(name).tobytes() == record
            tiles = np.frombuffer(record, np.uint8).reshape(experts["tiles"], -1)
            assert digits == "".join(f"{_core.crc32c(tile):08x}" for tile in tiles)


def test_two_exports_are_identical(tiny_pack, tiny_checkpoint, tmp_path):
    for threads in (1, 2):
        pack = tmp_path / f"{threads}.adapmoe"
        export_pack(tiny_checkpoint, pack, tile_width=64, threads=threads)
        assert contents(pack) == contents(tiny_pack)


def test_tile_width_does_not_change_the_weights(tiny_pack, tiny_checkpoint, tmp_path):
    whole = tmp_path / "whole.adapmoe"
    export_pack(tiny_checkpoint, whole)
    assert read_manifest(whole)["experts"]["tiles"] == 1
    assert read_manifest(tiny_pack)["experts"]["tiles"] == 4
    for one, four in zip(read_expert(whole, 5, 3), read_expert(tiny_pack, 5, 3), strict=True):
        np.testing.assert_array_equal(one, four)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile_width", [None, 32, 64])
def test_f32_pack_holds_the_weights_exactly(tmp_path, dtype, tile_width):
    config = make_config()
    tensors = make_tensors(config, dtype=dtype)
    source = write_checkpoint(tmp_path / "checkpoint", config, tensors)
    pack = tmp_path / "out.adapmoe"
    export_pack(source, pack, experts="f32", dense="f32", tile_width=tile_width)
    dense = read_dense(pack)
    inv_freq = dense.pop("rope.inv_freq")
    np.testing.assert_array_equal(inv_freq, np.float32(1e6 ** -(np.arange(0, 16, 2) / 16)))
    assert set(dense) == {name for name in tensors if ".experts." not in name}
    for name, values in dense.items():
        np.testing.assert_array_equal(values, tensors[name].astype(np.float32))
    for layer, expert in ((0, 0), (1, 2)):
        prefix = f"model.layers.{layer}.block_sparse_moe.experts.{expert}"
        for name, values in zip(NAMES, read_expert(pack, layer, expert), strict=True):
            wanted = tensors[f"{prefix}.{name}.weight"].astype(np.float32)
            np.testing.assert_array_equal(values[: wanted.shape[0], : wanted.shape[1]], wanted)
            assert not values[wanted.shape[0] :].any()
            assert not values[:, wanted.shape[1] :].any()
    errors = read_manifest(pack)["quantization_error"].values()
    assert all(error["relative_rmse"] == 0 for error in errors)


@pytest.mark.parametrize(("dtype", "bound"), [("int4", 0.12), ("int8", 0.01), ("f16", 0.001)])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_reported_error_is_the_error(tmp_path, dtype, bound, group_size):
    config = make_config()
    tensors = make_tensors(config, dtype="F32")
    source = write_checkpoint(tmp_path / "checkpoint", config, tensors)
    pack = tmp_path / "out.adapmoe"
    export_pack(source, pack, experts=dtype, dense=dtype, group_size=group_size)
    manifest = read_manifest(pack)
    assert all(e["relative_rmse"] < bound for e in manifest["quantization_error"].values())
    stored, wanted = read_dense(pack)["lm_head.weight"], tensors["lm_head.weight"]
    error = np.sqrt(np.sum((stored - wanted) ** 2.0) / np.sum(wanted**2.0))
    reported = manifest["quantization_error"]["lm_head"]["relative_rmse"]
    assert reported == pytest.approx(error, rel=1e-4)
    router = "model.layers.0.block_sparse_moe.gate.weight"
    np.testing.assert_array_equal(read_dense(pack)[router], tensors[router])


def test_sharded_and_single_checkpoints_give_the_same_pack(tmp_path):
    config = make_config()
    tensors = make_tensors(config)
    for shards in (1, 3):
        source = write_checkpoint(tmp_path / f"checkpoint{shards}", config, tensors, shards)
        export_pack(source, tmp_path / f"{shards}.adapmoe")
    assert contents(tmp_path / "1.adapmoe") == contents(tmp_path / "3.adapmoe")


@pytest.mark.parametrize("block", ["mlp", "block_sparse_moe"])
@pytest.mark.parametrize("shards", [1, 3])
def test_fused_experts_give_the_same_pack(tmp_path, block, shards):
    config = make_config()
    tensors = make_tensors(config)
    fused = fuse_experts(config, tensors, block)
    assert f"model.layers.1.{block}.experts.gate_up_proj" in fused
    export_pack(write_checkpoint(tmp_path / "plain", config, tensors), tmp_path / "plain.adapmoe")
    source = write_checkpoint(tmp_path / "fused", config, fused, shards)
    export_pack(source, tmp_path / "fused.adapmoe", tile_width=96)
    assert contents(tmp_path / "fused.adapmoe") == contents(tmp_path / "plain.adapmoe")


@pytest.mark.torch
def test_fused_layout_is_that_of_transformers(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    config = make_config(architectures=..., model_type=...)
    model = MixtralForCausalLM(MixtralConfig(**config))
    model.save_pretrained(tmp_path / "published")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert "model.layers.0.mlp.experts.gate_up_proj" in state
    write_checkpoint(tmp_path / "fused", make_config(), state)
    export_pack(tmp_path / "published", tmp_path / "published.adapmoe")
    export_pack(tmp_path / "fused", tmp_path / "fused.adapmoe")
    for file in ("dense.safetensors", "experts.safetensors"):
        published = (tmp_path / "published.adapmoe" / file).read_bytes()
        assert (tmp_path / "fused.adapmoe" / file).read_bytes() == published


def test_tied_head_is_left_out(tmp_path):
    config = make_config(tie_word_embeddings=True, num_key_value_heads=1, head_dim=24)
    tensors = make_tensors(config)
    source = write_checkpoint(tmp_path / "checkpoint", config, tensors)
    export_pack(source, tmp_path / "tied.adapmoe")
    assert "lm_head.weight" not in read_dense(tmp_path / "tied.adapmoe")
    # A checkpoint that repeats the tied head says nothing more.
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    source = write_checkpoint(tmp_path / "repeated", config, tensors)
    export_pack(source, tmp_path / "repeated.adapmoe")
    assert contents(tmp_path / "repeated.adapmoe") == contents(tmp_path / "tied.adapmoe")


def test_transformers_5_config_gives_the_same_weights(tmp_path):
    tensors = make_tensors(make_config())
    rope = {"rope_theta": 1e6, "rope_type": "default"}
    for name, config in (
        ("v4", make_config()),
        ("v5", make_config(rope_theta=..., rope_parameters=rope)),
    ):
        export_pack(
            write_checkpoint(tmp_path / name, config, tensors), tmp_path / f"{name}.adapmoe"
        )
    old, new = contents(tmp_path / "v4.adapmoe"), contents(tmp_path / "v5.adapmoe")
    for file in ("dense.safetensors", "experts.safetensors"):
        assert old[file] == new[file]
