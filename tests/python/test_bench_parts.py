# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of `adapmoe bench`: workloads, variants, bounds and medians."""

import dataclasses

import numpy as np
import pytest
from msgspec.structs import replace

from adapmoe.bench.bench import Spread, summarize, summarize_bound
from adapmoe.bench.rounds import Bound, Measurement, Round, read_experts
from adapmoe.bench.workload import BASE, ablation_of, fit_sizes, make_workload
from adapmoe.errors import ReadError
from adapmoe.pack.manifest import Experts
from adapmoe.settings import Settings

SETTINGS = Settings(prefetch=0, policy="lru")


def measurement(**changes):
    fields = {field.name: 1.0 for field in dataclasses.fields(Measurement)}
    return Measurement(**(fields | changes))


def test_a_workload_is_the_text_in_order_and_repeats_a_short_one():
    workload = make_workload([1, 2, 3, 4, 5], 10, prompt_tokens=3, warm_up=1, tokens=3)
    assert workload.prompt.tolist() == [1, 2, 3]
    assert workload.warm_up.tolist() == [4]
    assert workload.decode.tolist() == [5, 1, 2]
    assert workload.length == 7
    assert workload.prompt.dtype == np.int32


@pytest.mark.parametrize(
    ("context", "asked", "sizes"),
    [
        (2048, (None, None, None), (128, 16, 48)),
        (192, (None, None, None), (128, 16, 48)),
        (96, (None, None, None), (64, 8, 24)),
        (2, (None, None, None), (1, 0, 1)),
        (2048, (500, 0, None), (500, 0, 48)),
        (100, (90, None, None), (90, 2, 7)),
        (9, (None, 0, 8), (1, 0, 8)),
    ],
)
def test_sizes_that_were_not_asked_for_fit_into_the_context(context, asked, sizes):
    assert fit_sizes(context, *asked) == sizes


@pytest.mark.parametrize("asked", [(8, 1, 1), (9, None, None), (None, None, 8), (4, 3, 3)])
def test_sizes_that_do_not_fit_are_refused(asked):
    with pytest.raises(ValueError, match=r"--prompt-tokens .* trained for 8 tokens"):
        fit_sizes(8, *asked)


@pytest.mark.parametrize("sizes", [(0, 0, 1), (1, -1, 1), (1, 0, 0)])
def test_a_workload_of_nothing_is_refused(sizes):
    prompt, warm_up, tokens = sizes
    with pytest.raises(ValueError, match="at least 1"):
        make_workload([1], 10, prompt_tokens=prompt, warm_up=warm_up, tokens=tokens)


def test_an_ablation_changes_one_setting_at_a_time():
    variants = ablation_of(SETTINGS, calibrated=False)
    assert next(iter(variants)) == BASE
    for name, settings in variants.items():
        changed = {
            name for name, value in vars(variants[BASE]).items() if vars(settings)[name] != value
        }
        assert changed == (set() if name == BASE else {name.split("=")[0]})
    assert "policy=farthest-layer" in variants
    assert "policy=lru" not in variants
    assert not any("first_layer" in name or "trials" in name for name in variants)
    assert not any("gating" in name or name == "allocation=dp" for name in variants)


def test_prefetch_is_as_given_while_settings_are_compared():
    variants = ablation_of(dataclasses.replace(SETTINGS, prefetch=1), calibrated=True)
    tried = {name for name, settings in variants.items() if settings.prefetch_trials}
    assert tried == {"prefetch_trials=True"}
    layers = {"first_layer=both", "first_layer=hidden", "first_layer=none"}
    assert layers == {name for name in variants if name.startswith("first_layer")}


def test_gating_and_dp_are_compared_where_there_is_a_calibration():
    variants = ablation_of(SETTINGS, calibrated=True)
    assert {"gating=sensitivity", "gating=residency", "allocation=dp"} <= set(variants)


def test_the_bound_is_the_slower_of_computing_and_reading():
    bound = Bound(compute_s_per_token=0.5, all_resident=True, disk_bytes_per_s=100.0, direct=True)
    assert bound.token_s(20) == 0.5
    assert bound.token_s(200) == 2.0


def test_rounds_are_paired_and_become_medians():
    rounds = [
        Round(
            Bound(0.5, True, 100.0, True),
            {
                BASE: measurement(decode_tokens_per_s=speed, bytes_per_token=20.0),
                "other": measurement(decode_tokens_per_s=2 * speed, bytes_per_token=20.0),
            },
        )
        for speed in (1.0, 1.5, 0.5)
    ]
    summary = summarize(rounds)
    assert list(summary) == [BASE, "other"]
    assert summary[BASE].measured["decode_tokens_per_s"] == Spread(1.0, 0.5, 1.5)
    assert summary[BASE].fraction_of_bound == Spread(0.5, 0.25, 0.75)
    assert summary["other"].speedup == Spread(2.0, 2.0, 2.0)
    assert summarize_bound(rounds)["disk_bytes_per_s"].median == 100.0


def test_reading_experts_gives_a_speed(tmp_path):
    experts = Experts("experts.safetensors", 4096, 2, 16, 4096, 8192, ["", ""])
    (tmp_path / experts.file).write_bytes(bytes(4096 + 2 * 8192))
    speed, _ = read_experts(tmp_path, experts, seconds=0.01)
    assert speed > 0
    with pytest.raises(ReadError, match="missing"):
        read_experts(tmp_path, replace(experts, file="missing"), seconds=0.01)
