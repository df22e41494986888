# SPDX-License-Identifier: Apache-2.0
"""The GGUF that the benchmark gives llama.cpp holds the pack's own numbers."""

import numpy as np
import pytest

from benchmarks.gguf_file import write_gguf
from benchmarks.gguf_tensors import GROUP, LAYER_TENSORS, Q4_0_BYTES, PackTensors
from support.packs.pack_reader import read_dense, read_expert, read_manifest

HEADS = {"attn_q": 8, "attn_k": 2}


def dequantized(rows):
    """Q4_0 by its definition: fp16 scale, then 16 bytes that hold elements i and i + 16."""
    blocks = rows.reshape(*rows.shape[:-1], -1, Q4_0_BYTES)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
    values = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1)
    values = (values.astype(np.float32) - 8) * scales
    return values.reshape(*rows.shape[:-1], -1)


def values_of(tensor):
    data = tensor.read()
    assert data.shape == tensor.shape
    assert data.dtype == (np.uint8 if tensor.quantized else np.float32)
    return dequantized(data) if tensor.quantized else data


@pytest.fixture(scope="module")
def pack(pack_factory):
    return pack_factory(experts="int4", dense="int4", tile_width=64)


@pytest.fixture(scope="module")
def tensors(pack):
    return {tensor.name: tensor for tensor in PackTensors(pack)}


def test_dense_weights_are_the_packs_own(pack, tensors):
    dense = read_dense(pack)
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for layer in range(read_manifest(pack)["config"]["num_hidden_layers"]):
        for name, ours in LAYER_TENSORS.items():
            names[f"blk.{layer}.{name}"] = f"model.layers.{layer}.{ours}"
    for name, ours in names.items():
        values, expected = values_of(tensors[f"{name}.weight"]), dense[f"{ours}.weight"]
        heads = HEADS.get(name.rsplit(".", 1)[-1])
        if heads is not None:  # rows 0, half, 1, half + 1, ... of every head
            order = np.arange(len(expected)).reshape(heads, 2, -1).transpose(0, 2, 1).ravel()
            expected = expected[order]
        np.testing.assert_array_equal(values, expected, err_msg=name)


def test_experts_are_the_packs_own(pack, tensors):
    for layer, expert in ((0, 0), (3, 5), (7, 7)):
        expected = read_expert(pack, layer, expert)
        for name, values in zip(("gate", "up", "down"), expected, strict=True):
            tensor = tensors[f"blk.{layer}.ffn_{name}_exps.weight"]
            np.testing.assert_array_equal(values_of(tensor)[expert], values)


def test_frequencies_are_divisors_of_one(pack, tensors, monkeypatch):
    frequencies = read_dense(pack)["rope.inv_freq"]
    np.testing.assert_allclose(1 / values_of(tensors["rope_freqs.weight"]), frequencies, rtol=1e-6)
    spread = PackTensors(pack)
    monkeypatch.setattr(spread, "_vector", lambda name: np.array([0.5, 0.0], np.float32))
    still = next(iter(spread)).read()
    assert still[0] == 2
    assert 32768 / still[1] < 1e-20


def test_what_is_not_q4_0_is_refused(pack_factory):
    with pytest.raises(ValueError, match="--dense int4"):
        PackTensors(pack_factory(experts="int4", dense="int8"))


def test_the_file_can_be_read_back(pack, tensors, tmp_path):
    gguf = pytest.importorskip("gguf", reason="the file needs gguf: pip install --group bench")
    write_gguf(pack, tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert {tensor.name for tensor in reader.tensors} == set(tensors)
    for found in reader.tensors:
        if found.name in ("blk.2.ffn_down_exps.weight", "blk.1.ffn_gate_inp.weight"):
            expected = tensors[found.name]
            elements = expected.shape
            if expected.quantized:
                elements = (*elements[:-1], elements[-1] // Q4_0_BYTES * GROUP)
            assert tuple(found.shape) == elements[::-1]
            np.testing.assert_array_equal(found.data, expected.read())
    assert reader.fields["llama.expert_used_count"].contents() == 2
