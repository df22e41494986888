# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint can be read in two ways, the exporter reads it as transformers does, or not.

Each case is exported as f32, and every weight of the pack compared with what transformers loaded.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapmoe import LLM
from adapmoe.errors import CheckpointError, PackError
from adapmoe_export import export_pack
from adapmoe_export.numerics import compare_weights
from support.models.checkpoints import fuse_experts, make_config, make_tensors, write_checkpoint
from support.models.reference_model import load_reference, reference_logits
from support.packs.pack_reader import read_dense, read_expert, read_manifest

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
INDEX = "model.safetensors.index.json"
TIED = make_config(tie_word_embeddings=True)


def tensors_with(**changes):
    """A head and an embedding of different numbers. `changes`: None leaves the tensor out."""
    tensors = make_tensors(make_config(), dtype="F32")
    for name, tensor in changes.items():
        tensors[{"head": HEAD, "embedding": EMBEDDING}[name]] = tensor
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def tied_with_another_head(path):
    write_checkpoint(path, TIED, tensors_with())


def tied_with_another_head_in_shards(path):
    write_checkpoint(path, TIED, tensors_with(), shards=3)


def tied_with_one_number_changed(path):
    tensors = tensors_with()
    tensors[HEAD] = tensors[EMBEDDING].copy()
    tensors[HEAD][66, 63] += 1
    write_checkpoint(path, TIED, tensors)


def tied_with_the_same_head(path):
    write_checkpoint(path, TIED, tensors_with(head=tensors_with()[EMBEDDING]))


def tied_with_the_head_only(path):
    write_checkpoint(path, TIED, tensors_with(embedding=None))


def tied_with_the_embedding_only(path):
    write_checkpoint(path, TIED, tensors_with(head=None))


def tied_fused_with_another_head(path):
    write_checkpoint(path, TIED, fuse_experts(TIED, tensors_with()))


def without_prefix(path):
    tensors = tensors_with()
    write_checkpoint(path, make_config(), {n.removeprefix("model."): tensors[n] for n in tensors})


def tied_without_prefix_or_head(path):
    tensors = tensors_with(head=None)
    write_checkpoint(path, TIED, {n.removeprefix("model."): tensors[n] for n in tensors})


def single_file_beside_a_stale_index(path):
    write_checkpoint(path, make_config(), make_tensors(make_config(), seed=1), shards=2)
    save_file(tensors_with(), path / "model.safetensors")


def single_file_beside_an_index_without_shards(path):
    write_checkpoint(path, make_config(), tensors_with())
    (path / INDEX).write_text('{"metadata": {}, "weight_map": {"lm_head.weight": "gone"}}')


def shards_beside_those_of_another_model(path):
    write_checkpoint(path, make_config(), tensors_with(), shards=2)
    save_file(tensors_with(head=None), path / "model-00001-of-00007.safetensors")


def safetensors_beside_pytorch(path):
    write_checkpoint(path, make_config(), tensors_with())
    (path / "pytorch_model.bin").write_bytes(b"never read")


def index_that_leaves_a_tensor_out(path):
    write_checkpoint(path, TIED, tensors_with(), shards=2)
    index = json.loads((path / INDEX).read_text())
    del index["weight_map"][HEAD]
    (path / INDEX).write_text(json.dumps(index))


def rope_frequencies(path):
    tensors = tensors_with()
    for name in ("layers.0.self_attn.", "layers.1.self_attn.", ""):
        tensors[f"model.{name}rotary_emb.inv_freq"] = np.full(8, 7, np.float32)
    write_checkpoint(path, make_config(), tensors)


def experts_by_another_name(path):
    write_checkpoint(path, make_config(num_local_experts=..., num_experts=4), tensors_with())


def layer_types_that_say_nothing_new(path):
    config = make_config(sliding_window=8, layer_types=["sliding_attention"] * 2)
    write_checkpoint(path, config, tensors_with())


def fields_that_do_not_matter(path):
    config = make_config(
        router_jitter_noise=0.5,
        attention_dropout=0.5,
        output_router_logits=True,
        router_aux_loss_coef=0.5,
        initializer_range=9.0,
        torch_dtype="float16",
        attention_bias=True,
        partial_rotary_factor=0.5,
        norm_topk_prob=False,
        pad_token_id=5,
    )
    write_checkpoint(path, config, tensors_with())


SAME = [
    tied_with_another_head,
    tied_with_another_head_in_shards,
    tied_with_one_number_changed,
    tied_with_the_same_head,
    tied_with_the_head_only,
    tied_with_the_embedding_only,
    tied_fused_with_another_head,
    without_prefix,
    tied_without_prefix_or_head,
    single_file_beside_a_stale_index,
    single_file_beside_an_index_without_shards,
    shards_beside_those_of_another_model,
    safetensors_beside_pytorch,
    index_that_leaves_a_tensor_out,
    rope_frequencies,
    experts_by_another_name,
    layer_types_that_say_nothing_new,
    fields_that_do_not_matter,
]


@pytest.mark.torch
@pytest.mark.parametrize("write", SAME)
def test_the_pack_holds_what_transformers_loads(tmp_path, write):
    write(tmp_path / "checkpoint")
    pack = tmp_path / "out.adapmoe"
    export_pack(tmp_path / "checkpoint", pack, experts="f32", dense="f32")
    model = load_reference(tmp_path / "checkpoint")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    dense, config = read_dense(pack), read_manifest(pack)["config"]

    inv_freq = dense.pop("rope.inv_freq")
    np.testing.assert_allclose(inv_freq, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-6)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert (config["tie_word_embeddings"], HEAD in dense) == (tied, not tied)
    assert config["sliding_window"] == model.config.sliding_window
    for name, values in dense.items():
        np.testing.assert_array_equal(values, state[name.replace("block_sparse_moe", "mlp")])
    for layer in range(2):
        for expert in range(4):
            gate, up, down = read_expert(pack, layer, expert)
            prefix = f"model.layers.{layer}.mlp.experts"
            gate_up = state[f"{prefix}.gate_up_proj"][expert]
            np.testing.assert_array_equal(np.concatenate([gate[:96], up[:96]]), gate_up)
            np.testing.assert_array_equal(down[:, :96], state[f"{prefix}.down_proj"][expert])
    compare_weights(pack, tmp_path / "checkpoint")


@pytest.mark.torch
def test_a_tied_config_with_another_head_gives_the_logits_of_transformers(
    tiny_checkpoint, tmp_path
):
    source = tmp_path / "checkpoint"
    source.mkdir()
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    for file in tiny_checkpoint.glob("model*"):
        (source / file.name).symlink_to(file)
    export_pack(source, tmp_path / "out.adapmoe", experts="f32", dense="f32")
    ids = np.arange(3, 19, dtype=np.int32)
    wanted = reference_logits(load_reference(source), ids)[0]
    with LLM(tmp_path / "out.adapmoe", kv_dtype="f32") as llm, llm.new_sequence() as sequence:
        found = np.stack([sequence.decode(token) for token in ids.tolist()])
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=2e-4)


def test_a_pack_made_with_the_wrong_head_fails_to_verify(tmp_path):
    source = write_checkpoint(tmp_path / "tied", TIED, tensors_with(head=None))
    export_pack(source, tmp_path / "out.adapmoe")
    tied_with_another_head(tmp_path / "checkpoint")
    with pytest.raises(PackError, match="holds another model"):
        compare_weights(tmp_path / "out.adapmoe", tmp_path / "checkpoint")


def untied_without_head(path):
    write_checkpoint(path, make_config(), tensors_with(head=None))


def untied_without_embedding(path):
    write_checkpoint(path, make_config(), tensors_with(embedding=None))


def tied_without_either(path):
    write_checkpoint(path, TIED, tensors_with(head=None, embedding=None))


def tied_with_a_head_of_another_shape(path):
    write_checkpoint(path, TIED, tensors_with(head=np.zeros((64, 64), np.float32)))


def more_layers_than_the_config(path):
    write_checkpoint(path, make_config(num_hidden_layers=1), tensors_with())


def more_experts_than_the_config(path):
    tensors = tensors_with()
    for layer in range(2):
        gate = f"model.layers.{layer}.block_sparse_moe.gate.weight"
        tensors[gate] = tensors[gate][:3]
    write_checkpoint(path, make_config(num_local_experts=3), tensors)


def tensor_in_two_shards(path):
    write_checkpoint(path, make_config(), tensors_with(), shards=2)
    shard = path / "model-00001-of-00002.safetensors"
    other = load_file(path / "model-00002-of-00002.safetensors")
    save_file(load_file(shard) | {name: other[name] for name in list(other)[:1]}, shard)


def tensor_beside_the_index(path):
    write_checkpoint(path, make_config(), tensors_with(), shards=2)
    shard = path / "model-00001-of-00002.safetensors"
    save_file(load_file(shard) | {"model.layers.0.self_attn.q_proj.bias": np.ones(64)}, shard)


def with_and_without_prefix(path):
    tensors = tensors_with()
    tensors["embed_tokens.weight"] = tensors[EMBEDDING].copy()
    write_checkpoint(path, make_config(), tensors)


def fused_and_published(path):
    fused = fuse_experts(make_config(), tensors_with())
    write_checkpoint(path, make_config(), fused | tensors_with())


def adapter(path):
    write_checkpoint(path, make_config(), tensors_with())
    (path / "adapter_config.json").write_text("{}")


REFUSED = [
    (untied_without_head, "tensor lm_head.weight is missing"),
    (untied_without_embedding, "tensor model.embed_tokens.weight is missing"),
    (tied_without_either, "tensor model.embed_tokens.weight is missing"),
    (tied_with_a_head_of_another_shape, r"lm_head.weight has shape \[64, 64\]"),
    (more_layers_than_the_config, "unexpected tensor model.layers.1."),
    (more_experts_than_the_config, "unexpected tensor .*experts.3."),
    (tensor_in_two_shards, "is in model-00001-of-00002.safetensors as well"),
    (tensor_beside_the_index, "unexpected tensor model.layers.0.self_attn.q_proj.bias"),
    (with_and_without_prefix, "are the same tensor"),
    (fused_and_published, "the same tensor|unexpected tensor"),
    (adapter, "adapter_config.json.*merge_and_unload"),
]


@pytest.mark.parametrize(("write", "message"), REFUSED)
def test_what_transformers_would_read_otherwise_is_refused(tmp_path, write, message):
    write(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=message):
        export_pack(tmp_path / "checkpoint", tmp_path / "out.adapmoe")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformers_weights": "other.safetensors"}, "transformers_weights is 'other"),
        ({"configuration_files": ["config.4.0.0.json"]}, "configuration_files is"),
        ({"per_layer_config": {"0": {"sliding_window": 2}}}, "per_layer_config is"),
        ({"num_experts": 3}, "num_local_experts is 4, but num_experts is 3"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types is"),
        ({"layer_types": ["full_attention"], "sliding_window": 8}, "layer_types is"),
        ({"layer_types": 7}, "layer_types is 7"),
        (
            {"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_theta": 5e5}},
            "rope_scaling and rope_parameters are both given",
        ),
    ],
)
def test_fields_that_transformers_would_follow_are_refused(tmp_path, changes, message):
    write_checkpoint(tmp_path / "checkpoint", make_config(**changes), tensors_with())
    with pytest.raises(CheckpointError, match=message):
        export_pack(tmp_path / "checkpoint", tmp_path / "out.adapmoe")


def test_shards_without_an_index(tmp_path):
    write_checkpoint(tmp_path / "checkpoint", make_config(), tensors_with(), shards=3)
    export_pack(tmp_path / "checkpoint", tmp_path / "with.adapmoe")
    (tmp_path / "checkpoint" / INDEX).unlink()
    export_pack(tmp_path / "checkpoint", tmp_path / "without.adapmoe")
    with_index, without = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("with.adapmoe", "without.adapmoe")
    )
    assert with_index == without

    first = tmp_path / "checkpoint" / "model-00001-of-00003.safetensors"
    first.rename(first.with_name("model-00001-of-00004.safetensors"))
    with pytest.raises(CheckpointError, match=r"shards of several models \(N of \[3, 4\]\)"):
        export_pack(tmp_path / "checkpoint", tmp_path / "out.adapmoe")
    first.with_name("model-00001-of-00004.safetensors").unlink()
    with pytest.raises(CheckpointError, match="shard 1 of 3 is missing"):
        export_pack(tmp_path / "checkpoint", tmp_path / "out.adapmoe")
