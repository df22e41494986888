# SPDX-License-Identifier: Apache-2.0
"""Decoding with every expert resident: the GPU routes by itself, and the CPU waits once per token.

Tokens, logits, routing traces and counts are the CPU's. The first step with so many sequences is
queued kernel by kernel, the second is recorded, and from then on the recording is repeated: with
other positions, and, after the memory has shrunk and grown, with experts in other places.
"""

import os

import pytest

from adapmoe_export import export_pack
from support.models.checkpoints import make_config, make_tensors, write_checkpoint
from support.packs.manifest_edit import edit_manifest
from support.source.tools import token_report

COUNTS = (
    "experts_used",
    "expert_hits",
    "experts_activated",
    "gated",
    "dropped_share_sq",
    "bytes_read",
)
SAME = ("tokens", "logits", "trace", *COUNTS)
IDS = [1, 45, 66, 12, 4, 8, 15, 16, 23, 42, 11, 31, 5, 60, 2, 9, 33]


@pytest.fixture
def both(gpu_build):
    """A function from a pack, ids and options to the GPU's report, which agrees with the CPU's."""

    def compare(pack, ids, *options, same=SAME):
        cpu, gpu = (
            token_report(pack, *ids, *options, "--backend", b, "--threads", 1, build=gpu_build)
            for b in ("cpu", "cuda")
        )
        assert gpu["backend"].startswith("cuda/sm_")
        assert (gpu["backend"] == "cuda/sm_00") == (gpu_build == "emulated")
        assert {name: gpu[name] for name in same} == {name: cpu[name] for name in same}
        return gpu

    return compare


def numbers(report, name):
    return [int(n) for n in report[name].split()]


def assert_one_wait_each(report, steps):
    assert numbers(report, "waits") == [1] * steps
    assert numbers(report, "replays") == [0] + [1] * (steps - 1)


def gated(report):
    """(token, layer) pairs where the gate dropped experts."""
    return int(report["gated"])


@pytest.fixture(scope="module")
def small_packs(tmp_path_factory):
    """Packs of a random model with a decided router: a function from what changes to a path.

    All but the experts is f32: no rounding to a few bits hides a weight's last one.
    """

    def make(edit=lambda tensors: None, tile_width=None, **changes):
        folder = tmp_path_factory.mktemp("small")
        config = make_config(**changes)
        tensors = make_tensors(config, dtype="F32")
        for name, tensor in tensors.items():
            if name.endswith("gate.weight"):
                tensor *= 100
        edit(tensors)
        checkpoint = write_checkpoint(folder / "checkpoint", config, tensors)
        options = {"dense": "f32", "group_size": 32, "tile_width": tile_width}
        export_pack(checkpoint, folder / "pack", experts="int4", **options)
        return folder / "pack"

    return make


@pytest.mark.parametrize(
    ("experts", "dense", "group", "tile_width", "kv"),
    [
        ("int4", "int8", 32, 64, "f16"),
        ("int4", "int4", 64, None, "f32"),
        ("int8", "f16", 128, None, "f16"),
        ("f16", "f32", 32, 96, "f32"),
    ],
)
def test_one_wait_per_token(pack_factory, experts, dense, group, tile_width, kv, both):
    pack = pack_factory(experts=experts, dense=dense, group_size=group, tile_width=tile_width)
    gpu = both(pack, IDS[:3], "-n", 4, "--kv", kv, "--warm", "yes")
    assert_one_wait_each(gpu, 4)
    assert "note" not in gpu


def test_experts_that_no_token_has_needed_are_read_as_well(small_packs, both, gpu_build):
    # Two tokens do not choose them all; a GPU may outrun the disk for long.
    pack = small_packs(num_local_experts=40, max_position_embeddings=1024)
    steps = 20 if gpu_build == "emulated" else 500
    gpu = both(pack, IDS[:1], "-n", steps, same=("tokens", "logits", "trace"))
    assert numbers(gpu, "waits")[0] > 1
    assert numbers(gpu, "waits")[-2:] == [1, 1]
    assert numbers(gpu, "replays")[-2:] == [1, 1]
    assert int(gpu["resident"]) == 2 * 40


@pytest.mark.parametrize("threshold", [0, 0.05, 10])
def test_the_rule_of_sensitivity(pack_factory, threshold, both):
    pack = pack_factory(experts="int4", dense="int8")
    gpu = both(pack, IDS[:3], "-n", 4, "--warm", "yes", "--gating", threshold)
    assert_one_wait_each(gpu, 4)
    # Of 7 tokens in 8 layers; 10 leaves each of them one expert.
    assert gated(gpu) in {0: [0], 0.05: range(1, 56), 10: [56]}[threshold]


@pytest.mark.parametrize("sequences", [2, 3, 5, 16])
def test_sequences_of_different_lengths_together(small_packs, sequences, both):
    pack = small_packs(num_local_experts=6)
    gpu = both(pack, IDS, "-n", 4, "--warm", "yes", "--sequences", sequences, "--gating", 0.1)
    assert_one_wait_each(gpu, 4)
    assert gated(gpu) > 0


def test_more_sequences_than_fit_go_layer_by_layer(small_packs, both):
    gpu = both(small_packs(), IDS, "-n", 2, "--warm", "yes", "--sequences", 17)
    assert min(numbers(gpu, "waits")) > 1
    assert numbers(gpu, "replays") == [0, 0]


def test_positions_are_not_recorded(small_packs, both):
    """Across a block of positions, with a sliding window that leaves the beginning behind."""
    pack = small_packs(hidden_size=48, head_dim=24, sliding_window=48)
    gpu = both(pack, [(5 * i + 1) % 67 for i in range(126)], "-n", 6, "--warm", "yes")
    assert_one_wait_each(gpu, 6)


def test_many_experts_and_several_tiles(small_packs, both):
    pack = small_packs(
        num_local_experts=40, num_experts_per_tok=5, tile_width=32, num_hidden_layers=3
    )
    gpu = both(pack, IDS[:4], "-n", 4, "--warm", "yes", "--sequences", 3, "--gating", 0.02)
    assert_one_wait_each(gpu, 4)
    assert gated(gpu) > 0


def test_more_experts_than_one_thread_block_scores(small_packs, both):
    pack = small_packs(
        num_local_experts=300, hidden_size=32, intermediate_size=32, num_hidden_layers=1
    )
    gpu = both(pack, IDS, "-n", 3, "--warm", "yes", "--sequences", 13)  # 13 * 300 scores
    assert_one_wait_each(gpu, 3)
    gpu = both(pack, IDS, "-n", 2, "--warm", "yes", "--sequences", 14)
    assert numbers(gpu, "replays") == [0, 0]


def test_ties_go_to_the_lower_expert(small_packs, both):
    def tie(tensors):
        for name, tensor in tensors.items():
            if name.endswith("gate.weight"):
                tensor[1::2] = tensor[::2]  # experts 2i and 2i + 1 always score the same

    for top_k in (3, 4):  # a pair is parted by the selection; or, if at all, by the gate
        pack = small_packs(tie, num_local_experts=6, num_experts_per_tok=top_k)
        gpu = both(pack, IDS[:3], "-n", 4, "--warm", "yes", "--gating", 0.03)
        assert_one_wait_each(gpu, 4)
        assert gated(gpu) > 0


@pytest.mark.parametrize(
    "router",
    [
        {"score": "sigmoid", "renormalize": True, "scale": 2.5},
        {"score": "sigmoid", "renormalize": False, "scale": 1.0},
        {"score": "softmax", "renormalize": False, "scale": 0.75},
    ],
)
def test_other_routers(small_packs, router, both):
    pack = small_packs(num_local_experts=5, num_experts_per_tok=3)
    edit_manifest(pack, lambda manifest: manifest["router"].update(router))
    gpu = both(pack, IDS[:3], "-n", 4, "--warm", "yes", "--gating", 0.07)
    assert_one_wait_each(gpu, 4)
    assert 0 < gated(gpu) < 14


def test_a_budget_without_room_for_all_goes_layer_by_layer(pack_factory, both, gpu_build):
    pack = pack_factory(experts="int4", dense="int8", tile_width=64)
    gpu = both(pack, IDS[:3], "-n", 6, "--memory", 8 << 20, same=("tokens", "logits", "trace"))
    assert min(numbers(gpu, "waits")) > 16  # at least twice for each of 8 layers
    assert numbers(gpu, "replays") == [0] * 6
    if gpu_build == "emulated":
        assert int(gpu["on_cpu"]) > 0  # it is so slow that the CPU must take some


def test_memory_that_shrinks_and_grows_in_between(pack_factory, both):
    """The recording outlives it, the places of the experts do not."""
    pack = pack_factory(experts="int4", dense="int8", tile_width=64)
    memory = ("--memory", 64 << 20, "--memory-later", 8 << 20)
    gpu = both(pack, IDS[:3], "-n", 9, "--warm", "yes", *memory, same=("tokens", "logits", "trace"))
    waits = numbers(gpu, "waits")
    assert waits[:3] + waits[6:] == [1] * 6
    assert min(waits[3:6]) > 16
    assert numbers(gpu, "replays") == [0, 1, 1, 0, 0, 0, 1, 1, 1]


@pytest.mark.emulated
@pytest.mark.parametrize("gpu_build", ["emulated"])
def test_a_gpu_with_memory_of_its_own(pack_factory, both, monkeypatch):
    pack = pack_factory(experts="int4", dense="int8", tile_width=64)
    monkeypatch.setitem(os.environ, "ADAPMOE_EMULATED_GPU", "discrete")
    gpu = both(pack, IDS, "-n", 4, "--warm", "yes", "--sequences", 2, "--gating", 0.05)
    assert_one_wait_each(gpu, 4)


def test_w4a16_experts_routed_by_the_gpu(pack_factory, gpu_build):
    """The bits of the same tokens as a prompt, whose experts the CPU chooses."""
    pack = pack_factory(experts="int4", dense="int8", tile_width=64)
    options = ("--experts", "w4a16", "--exact", "no", "--warm", "yes", "--backend", "cuda")
    routed = token_report(pack, *IDS[:3], "-n", 5, *options, build=gpu_build)
    assert_one_wait_each(routed, 5)
    prompt = [*IDS[:3], *numbers(routed, "tokens")[:4]]
    as_prompt = token_report(pack, *prompt, "-n", 1, *options, build=gpu_build)
    assert as_prompt["logits"] == routed["logits"]


@pytest.mark.emulated
@pytest.mark.parametrize("gpu_build", ["emulated"])
def test_where_nothing_can_be_recorded_kernels_are_queued_one_by_one(
    pack_factory, both, monkeypatch
):
    pack = pack_factory(experts="int4", dense="int8")
    monkeypatch.setitem(os.environ, "ADAPMOE_EMULATED_GRAPHS", "refused")
    gpu = both(pack, IDS[:3], "-n", 4, "--warm", "yes")
    assert numbers(gpu, "waits") == [1] * 4
    assert numbers(gpu, "replays") == [0] * 4
    assert "cannot be recorded as a CUDA graph" in gpu["note"]
