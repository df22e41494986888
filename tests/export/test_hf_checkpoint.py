# SPDX-License-Identifier: Apache-2.0
"""What the exporter refuses to read, and that it names it."""

import json

import numpy as np
import pytest

from adapmoe.errors import CheckpointError
from adapmoe_export import export_pack
from support.models.checkpoints import make_config, make_tensors, write_checkpoint

W1 = "model.layers.1.block_sparse_moe.experts.3.w1.weight"


def drop_tensor(tensors):
    del tensors[W1]


def wrong_shape(tensors):
    tensors[W1] = np.zeros((96, 63), np.float32)


def transposed(tensors):
    tensors[W1] = np.ascontiguousarray(tensors[W1].T)


def integer_dtype(tensors):
    tensors[W1] = np.zeros((96, 64), np.int64)


def not_a_number(tensors):
    tensors[W1][5, 7] = np.nan


def infinite_norm(tensors):
    tensors["model.norm.weight"][3] = np.inf


def unexpected_bias(tensors):
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_tensor, f"tensor {W1} is missing"),
        (wrong_shape, rf"tensor {W1} has shape \[96, 63\], expected \[96, 64\]"),
        (transposed, rf"tensor {W1} has shape \[64, 96\], expected \[96, 64\]"),
        (integer_dtype, f"tensor {W1} is I64, expected BF16, F16 or F32"),
        (not_a_number, rf"tensor {W1} holds nan at \[5, 7\]"),
        (infinite_norm, r"tensor model.norm.weight holds inf at \[3\]"),
        (unexpected_bias, "unexpected tensor model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_bad_tensors_are_named(tmp_path, shards, damage, message):
    config = make_config()
    tensors = make_tensors(config)
    damage(tensors)
    source = write_checkpoint(tmp_path / "checkpoint", config, tensors, shards)
    with pytest.raises(CheckpointError, match=message) as error:
        export_pack(source, tmp_path / "out.adapmoe")
    assert str(source) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def truncated(path):
    shard = path / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])


def missing_shard(path):
    (path / "model-00002-of-00003.safetensors").unlink()


def shard_elsewhere(path):
    index = path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][W1] = "../model.safetensors"
    index.write_text(json.dumps(content))


def index_lies(path):
    index = path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    other = "model-00001-of-00003.safetensors"
    content["weight_map"] = dict.fromkeys(content["weight_map"], other)
    index.write_text(json.dumps(content))


def empty_index(path):
    (path / "model.safetensors.index.json").write_text("{}")


def no_weights(path):
    for file in path.glob("model*"):
        file.unlink()


def no_config(path):
    (path / "config.json").unlink()


def broken_config(path):
    (path / "config.json").write_text('{"model_type": "mixtral",')


def config_not_an_object(path):
    (path / "config.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "model-00002-of-00003.safetensors: not a complete safetensors file"),
        (missing_shard, "model-00002-of-00003.safetensors: this shard is missing"),
        (shard_elsewhere, "is not the name of a file"),
        (index_lies, r"model-00001-of-00003.safetensors: tensor .* is missing"),
        (empty_index, "no weight_map"),
        (no_weights, "only safetensors weights are read"),
        (no_config, "no config.json"),
        (broken_config, "config.json: not valid JSON"),
        (config_not_an_object, "config.json: expected a JSON object"),
    ],
)
def test_bad_files_are_named(tmp_path, damage, message):
    config = make_config()
    source = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config), shards=3)
    damage(source)
    with pytest.raises(CheckpointError, match=message):
        export_pack(source, tmp_path / "out.adapmoe")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_not_a_directory(tmp_path):
    with pytest.raises(CheckpointError, match="not a directory"):
        export_pack(tmp_path / "nothing", tmp_path / "out.adapmoe")


def test_weight_too_large_for_the_dtype_names_the_tensor(tmp_path):
    config = make_config()
    tensors = make_tensors(config, dtype="F32")
    tensors[W1][0, 0] = 1e30
    source = write_checkpoint(tmp_path / "checkpoint", config, tensors)
    with pytest.raises(CheckpointError, match=f"{W1}.*holds at most"):
        export_pack(source, tmp_path / "out.adapmoe")
    export_pack(source, tmp_path / "out.adapmoe", experts="f32")
