# SPDX-License-Identifier: Apache-2.0
"""Calibration of the tiny model with few windows; python/adapmoe/calibration/README.md has more."""

import json
import math
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from adapmoe import LLM, CalibrationError, CheckpointError
from adapmoe.calibration.calibrate import Settings, calibrate
from adapmoe.calibration.statistics import evaluate
from adapmoe.cli.main import app
from adapmoe.pack.calibration import FILE, read_calibration
from adapmoe.pack.weights import DenseTensors
from support.packs.pack_reader import read_dense

LAYERS, EXPERTS = 8, 8
LIMIT = 0.01
TEXT = "The keeper of the lighthouse wrote down the weather every evening, and in the morning"


@pytest.fixture(scope="module")
def texts(tiny_checkpoint):
    return tiny_checkpoint.parents[1] / "text"


@pytest.fixture(scope="module")
def pack(pack_factory, tmp_path_factory):
    """A copy, because a calibration is written into it."""
    copy = tmp_path_factory.mktemp("calibrated") / "tiny.adapmoe"
    shutil.copytree(pack_factory(experts="int4", dense="int8", group_size=32), copy)
    return copy


@pytest.fixture(scope="module")
def calibration(pack, texts):
    settings = Settings(windows=24, max_perplexity_increase=LIMIT, memory_fraction=None)
    return calibrate(pack, texts / "calibration.txt", settings)


def test_every_layer_has_a_sensitivity(calibration):
    values = calibration.sensitivity["direct"].values
    assert len(values) == LAYERS
    assert all(math.isfinite(s) and s > 0 for s in values)
    assert int(np.argmax(values)) == 0  # nothing after it can make up for the first layer's loss


def test_routing_statistics_are_shares(calibration):
    routing = calibration.routing
    frequency = np.array(routing.expert_frequency)
    assert frequency.shape == (LAYERS, EXPERTS)
    assert frequency.sum(axis=1) == pytest.approx(np.full(LAYERS, 2.0))
    shares = np.array(list(routing.top1_share_above.values()))
    assert (np.diff(shares, axis=0) <= 0).all()
    assert all(0 < overlap < 1 for overlap in routing.consecutive_overlap)


def test_looking_ahead_beats_chance(calibration):
    for rows in (calibration.predictor.as_is, calibration.predictor.renormalized):
        for depth, accuracy in rows.items():
            assert accuracy[:depth] == [None] * depth
            assert all(0.3 < a <= 1 for a in accuracy[depth:])  # chance is 0.25
        assert np.mean(rows[1][2:]) > np.mean(rows[2][2:])


def test_the_first_layers_gate_beats_the_most_frequent_experts(calibration):
    found = calibration.first_layer_gate
    assert found.accuracy > found.accuracy_of_most_frequent + 0.03
    assert found.accuracy_with_embedding > found.accuracy
    assert found.accuracy_of_router_on_embedding > 0.9


def test_the_threshold_saves_within_the_contract_on_held_out_windows(calibration):
    found = calibration.gating.sensitivity
    assert found.pays
    assert found.perplexity_increase < found.perplexity_increase_bound <= LIMIT
    assert found.activations_saved == pytest.approx(found.gated_steps / 2)
    assert np.mean(calibration.single_ratio) == pytest.approx(found.gated_steps, abs=0.005)


@pytest.mark.slow
def test_the_contract_holds_on_another_text(calibration, pack, texts):
    text = (texts / "evaluation.txt").read_text()[:60_000]
    found = {}
    for gating in ("off", "sensitivity"):
        with LLM(pack, gating=gating, max_context=256, warm_restart=False) as llm:
            found[gating] = evaluate(llm, text)["perplexity"]
            activated = llm.stats.experts_activated / llm.stats.tokens / LAYERS
            assert (activated == 2) == (gating == "off")
    assert found["off"] < found["sensitivity"] <= found["off"] * (1 + LIMIT)


@pytest.mark.slow
def test_gating_by_residency_drops_only_what_is_not_there(pack, texts, tmp_path):
    copy = tmp_path / "tiny.adapmoe"
    shutil.copytree(pack, copy)
    found = calibrate(copy, texts / "calibration.txt", Settings(windows=4)).gating
    assert found.memory_fraction == 0.5
    residency, sensitivity = found.residency, found.sensitivity
    assert residency.threshold >= sensitivity.threshold
    assert residency.bytes_per_token < residency.bytes_per_token_without
    ids = np.random.default_rng(0).integers(3, 4096, 768)  # needs every expert sooner or later
    options = {"gating": "residency", "prefetch": 0, "warm_restart": False}
    with LLM(copy, max_context=1024, **options) as llm:
        sequence = llm.new_sequence()
        sequence.prefill(ids[:16])  # too few to read whole layers ahead
        assert sequence.last_stats.gated > 0
        sequence.prefill(ids)
        sequence.prefill(ids[:100])
        assert sequence.last_stats.gated == 0


@pytest.mark.parametrize("allocation", ["uniform", "dp"])
@pytest.mark.parametrize("prefetch", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_allocation_and_prefetch_change_no_token(calibration, pack, allocation, prefetch):
    ids = []
    for options in ({}, {"allocation": allocation, "prefetch": prefetch, "evict": "expert"}):
        with LLM(pack, experts_resident=0.3, max_context=256, warm_restart=False, **options) as llm:
            ids.append(llm.generate(TEXT).token_ids)
            split = llm.set_memory(llm.memory_split.memory_bytes - 4 * 110592)
            assert split.frames < 20
            ids.append(llm.generate(TEXT).token_ids)
    assert all(other == ids[0] for other in ids)


def test_gating_without_calibration_says_what_to_do(pack_factory):
    pack = pack_factory(experts="int8")
    for options in ({"gating": "sensitivity"}, {"allocation": "dp"}):
        with pytest.raises(CalibrationError, match="adapmoe calibrate"):
            LLM(pack, **options)


def test_the_calibration_of_another_pack_is_refused(calibration, pack, pack_factory, tmp_path):
    other = tmp_path / "other.adapmoe"
    shutil.copytree(pack_factory(experts="int8"), other)
    shutil.copy(pack / FILE, other)
    with pytest.raises(CalibrationError, match="another pack"):
        LLM(other, gating="sensitivity")


@pytest.mark.parametrize(("experts", "dense"), [("int4", "int8"), ("f32", "f16"), ("int4", "int4")])
def test_dense_weights_are_read_as_the_format_says(pack_factory, experts, dense):
    pack = pack_factory(experts=experts, dense=dense)
    expected, found = read_dense(pack), DenseTensors(pack)
    router, embedding = "model.layers.3.block_sparse_moe.gate.weight", "model.embed_tokens.weight"
    assert np.array_equal(found.rows(router), expected[router])
    some = np.array([4095, 0, 17, 17])
    assert np.array_equal(found.rows(embedding, some), expected[embedding][some])
    norm = "model.layers.3.post_attention_layernorm.weight"
    assert np.array_equal(found.vector(norm), expected[norm])


@pytest.mark.torch
@pytest.mark.slow
def test_fisher_and_direct_agree_on_the_order(calibration, pack, texts, tiny_checkpoint):
    settings = Settings(
        "fisher", LIMIT, windows=16, memory_fraction=None, checkpoint=tiny_checkpoint
    )
    found = calibrate(pack, texts / "calibration.txt", settings)
    assert found.sensitivity["direct"] == calibration.sensitivity["direct"]
    assert all(s > 0 for s in found.sensitivity["fisher"].values)
    print("rank correlation", found.rank_correlation)
    assert found.rank_correlation >= 0.8
    assert read_calibration(pack).gating.method == "fisher"


def test_fisher_refuses_another_checkpoint(pack, texts, tiny_checkpoint, tmp_path):
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_theta": 1e4}))
    settings = Settings("fisher", windows=4, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="checkpoint of this pack"):
        calibrate(pack, texts / "calibration.txt", settings)


def test_the_command_prints_json_and_refuses_wrong_settings(pack, texts, tmp_path):
    copy = tmp_path / "tiny.adapmoe"
    shutil.copytree(pack, copy)
    command = ["calibrate", str(copy), "--text", str(texts / "calibration.txt"), "--windows", "4"]
    run = CliRunner().invoke(app, [*command, "--residency-at", "off", "--json"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout) == json.loads((copy / FILE).read_text())
    for wrong in (["--method", "fisher"], ["--max-perplexity-increase", "1"], ["--windows", "3"]):
        assert CliRunner().invoke(app, [*command, *wrong]).exit_code == 2
