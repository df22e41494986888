# SPDX-License-Identifier: Apache-2.0
"""W4A16: int4 and int8 weights with activations that stay floats. On the GPU, and opted into."""

import shutil

import numpy as np
import pytest

from adapmoe.pack.weights import ExpertReader
from adapmoe_export import export_pack
from support.models.big_checkpoint import big_config, write_big_checkpoint
from support.source.tools import run, run_expert, token_report, tool

TOLERANCE = 1e-6  # relative L2 from float64, of one expert
W4A8_IS_OFF = 1e-3  # at least: what a path that rounded activations would show
W4A16 = ("--experts", "w4a16", "--exact", "no")
IDS = [1, 45, 67, 300, 12]


def relative_l2(y, reference):
    return float(np.linalg.norm(y - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize(
    ("experts", "group", "tile_width"),
    [("int4", 32, None), ("int4", 64, 64), ("int4", 128, None), ("int8", 32, 64), ("int8", 64, 64)],
)
@pytest.mark.parametrize("rows", [1, 3, 4, 7, 16])
def test_one_expert_against_float64(gpu_build, pack_factory, experts, group, tile_width, rows):
    pack = pack_factory(experts=experts, group_size=group, tile_width=tile_width)
    reader = ExpertReader(pack)
    x = np.random.default_rng(rows).standard_normal((rows, reader.hidden_size), np.float32)
    reference = reader.read(3, 1).evaluate(x)
    y = run_expert(pack, 3, 1, x, backend="cuda", path="w4a16", build=gpu_build)
    assert relative_l2(y, reference) <= TOLERANCE
    exact = run_expert(pack, 3, 1, x, backend="cuda", path="w4a8", build=gpu_build)
    assert relative_l2(exact, reference) >= W4A8_IS_OFF
    cpu = run_expert(pack, 3, 1, x, backend="cpu", path="w4a8", build=gpu_build)
    assert np.array_equal(exact, cpu)


@pytest.mark.emulated
@pytest.mark.parametrize("path", ["w4a8", "w4a16"])
def test_a_gpu_with_memory_of_its_own(pack_factory, monkeypatch, path):
    pack = pack_factory(tile_width=64)
    x = np.random.default_rng(0).standard_normal((3, 256), np.float32)
    shared = run_expert(pack, 3, 1, x, backend="cuda", path=path, build="emulated")
    monkeypatch.setenv("ADAPMOE_EMULATED_GPU", "discrete")
    own = run_expert(pack, 3, 1, x, backend="cuda", path=path, build="emulated")
    assert np.array_equal(own, shared)
    done = run(tool("gpu-bench", build="emulated"), "expert", pack, "cuda", path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[1]) > 0


@pytest.mark.slow
def test_an_expert_of_the_size_of_mixtral_8x7b(gpu_build, tmp_path):
    config = big_config(4096, 14336, 1, 1, vocab_size=64) | {"num_experts_per_tok": 1}
    write_big_checkpoint(tmp_path / "checkpoint", config)
    pack = tmp_path / "big.adapmoe"
    export_pack(tmp_path / "checkpoint", pack, group_size=128)
    shutil.rmtree(tmp_path / "checkpoint")
    x = np.random.default_rng(0).standard_normal((2, 4096), np.float32)
    y = run_expert(pack, 0, 0, x, backend="cuda", path="w4a16", build=gpu_build)
    assert relative_l2(y, ExpertReader(pack).read(0, 0).evaluate(x)) <= TOLERANCE


def test_a_whole_model(gpu_build, pack_factory):
    pack = pack_factory()
    options = (*IDS, "-n", 3, "--threads", 1, "--backend", "cuda")
    exact = token_report(pack, *options, build=gpu_build)
    floats = token_report(pack, *options, *W4A16, build=gpu_build)
    assert floats["backend"] == exact["backend"] + "/w4a16"
    assert floats["logits"] != exact["logits"]
    assert floats["tokens"] == exact["tokens"]  # near enough for these


@pytest.mark.emulated
def test_the_cpu_does_not_have_it(pack_factory):
    arguments = (pack_factory(), 1, *W4A16, "--backend", "cpu")
    done = run(tool("tokens", build="emulated"), *arguments)
    assert done.returncode == 1
    assert 'arithmetic="w4a16" runs on a GPU only' in done.stderr


@pytest.mark.emulated
def test_float_experts_have_one_path(pack_factory):
    arguments = (pack_factory(experts="f16"), 1, *W4A16)
    done = run(tool("tokens", build="emulated"), *arguments)
    assert done.returncode == 1
    assert 'the experts of this pack are f16, which have one path; use "auto"' in done.stderr
