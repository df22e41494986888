# SPDX-License-Identifier: Apache-2.0
"""How a memory ceiling is split over dense weights, KV, scratch and experts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe import _testing

PAGE = 4096
# 4 layers x 8 experts of 3 tiles of 2 pages.
NEEDS = {
    "dense_bytes": 1_000_000,
    "kv_bytes": 300_000,
    "scratch_bytes": 70_000,
    "tile_bytes": 2 * PAGE,
    "tiles_per_expert": 3,
    "top_k": 2,
    "num_layers": 4,
    "num_experts": 32,
}
FIXED = (245 + 74 + 18) * PAGE  # each rounded up to pages
FLOOR = FIXED + (2 * 3 + 1) * 2 * PAGE
EVERYTHING = FIXED + 32 * 3 * 2 * PAGE


def test_golden_split():
    split = _testing.split_memory(NEEDS, FLOOR + 5 * 2 * PAGE + 100)
    assert split == {
        "memory_bytes": FLOOR + 5 * 2 * PAGE + 100,
        "dense_bytes": 245 * PAGE,
        "kv_bytes": 74 * PAGE,
        "scratch_bytes": 18 * PAGE,
        "expert_bytes": 12 * 2 * PAGE,
        "tile_bytes": 2 * PAGE,
        "frames": 12,
        "frames_total": 96,
        "floor_bytes": FLOOR,
        "cycle_bytes": 4 * 2 * 3 * 2 * PAGE,
        "everything_fits": 0,
        "below_one_cycle": 1,
    }


def test_the_floor_is_exact_and_named():
    assert _testing.split_memory(NEEDS, FLOOR)["frames"] == 7
    with pytest.raises(_testing.StatusError, match=rf"kBudgetError.*\({FLOOR} bytes\) needed"):
        _testing.split_memory(NEEDS, FLOOR - 1)


def test_more_than_everything_is_left_alone():
    assert _testing.split_memory(NEEDS, EVERYTHING - 1)["frames"] == 95
    for memory in (EVERYTHING, 10 * EVERYTHING):
        split = _testing.split_memory(NEEDS, memory)
        assert (split["frames"], split["everything_fits"]) == (96, 1)


def test_one_cycle_is_enough_not_to_warn():
    cycle = FIXED + 4 * 2 * 3 * 2 * PAGE
    assert _testing.split_memory(NEEDS, cycle - 1)["below_one_cycle"] == 1
    assert _testing.split_memory(NEEDS, cycle)["below_one_cycle"] == 0


def test_a_model_of_few_experts_needs_no_staging_tile():
    needs = {**NEEDS, "num_layers": 1, "num_experts": 2}
    assert _testing.split_memory(needs, FIXED + 6 * 2 * PAGE)["everything_fits"] == 1


@st.composite
def any_needs(draw):
    layers, per_layer = draw(st.integers(1, 60)), draw(st.integers(1, 64))
    return {
        "dense_bytes": draw(st.integers(0, 2**34)),
        "kv_bytes": draw(st.integers(0, 2**34)),
        "scratch_bytes": draw(st.integers(0, 2**30)),
        "tile_bytes": PAGE * draw(st.integers(1, 2048)),
        "tiles_per_expert": draw(st.integers(1, 40)),
        "top_k": draw(st.integers(1, per_layer)),
        "num_layers": layers,
        "num_experts": layers * per_layer,
    }


@given(needs=any_needs(), memory=st.integers(0, 2**42))
def test_the_parts_never_exceed_the_ceiling(needs, memory):
    try:
        split = _testing.split_memory(needs, memory)
    except _testing.StatusError as error:
        floor = int(re.search(r"at least .*?\((\d+) bytes\)", str(error)).group(1))
        assert memory < floor
        split = _testing.split_memory(needs, floor)
        assert split["memory_bytes"] == split["floor_bytes"] == floor
    parts = [split[f"{part}_bytes"] for part in ("dense", "kv", "scratch", "expert")]
    assert sum(parts) <= split["memory_bytes"]
    assert split["expert_bytes"] == split["frames"] * needs["tile_bytes"]
    spare = split["memory_bytes"] - sum(parts)
    assert split["everything_fits"] or spare < needs["tile_bytes"]
    every = needs["num_experts"] * needs["tiles_per_expert"]
    least = min(needs["top_k"] * needs["tiles_per_expert"] + 1, every)
    assert least <= split["frames"] <= split["frames_total"] == every


@given(needs=any_needs(), fraction=st.floats(0.001, 1))
def test_a_fraction_gives_that_share_of_frames(needs, fraction):
    split = _testing.split_memory(needs, _testing.memory_for_fraction(needs, fraction))
    every = split["frames_total"]
    least = min(needs["top_k"] * needs["tiles_per_expert"] + 1, every)
    assert split["frames"] >= least
    assert split["frames"] == least or abs(split["frames"] - fraction * every) <= 0.5 + 1e-6


@given(needs=any_needs())
def test_the_whole_fraction_holds_everything(needs):
    memory = _testing.memory_for_fraction(needs, 1.0)
    assert _testing.split_memory(needs, memory)["everything_fits"] == 1
    assert _testing.split_memory(needs, memory)["memory_bytes"] == memory
