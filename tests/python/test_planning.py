# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the plan, on made-up measurements."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.machine.bandwidth import DiskProbe, DiskSpeed, measure_memory
from adapmoe.pack.manifest import PackGeometry
from adapmoe.planning.measure import Measurements, fastest_quarter, slowest_quarter
from adapmoe.planning.plan import budgets_to_check, make_plan
from adapmoe.planning.routing_sample import sample_from_statistics
from adapmoe.planning.service_memory import SERVER_BYTES
from adapmoe.planning.step_time import LayerTime, Measured, split_compute

GEOMETRY = PackGeometry("ab" * 32, 8, 8, 2, 1 << 20, 20 << 20)
TIME = LayerTime(num_layers=8, top_k=2, tiles=4, dense_s=1.0, expert_s=0.5, read_s=2.0)


def test_a_layer_hides_computing_behind_reading():
    assert TIME.layer_s(0) == 1.0 + 2 * 0.5
    assert TIME.layer_s(1) == 1.0 + 2.0 + 0.5 / 4
    assert TIME.layer_s(2) == 1.0 + 4.0 + 0.5 / 4
    assert replace(TIME, read_s=0.1).layer_s(2) == TIME.layer_s(0)


def test_a_token_is_the_expectation_over_misses():
    assert TIME.token_s(1.0) == 8 * TIME.layer_s(0)
    assert TIME.token_s(0.0) == 8 * TIME.layer_s(2)
    half = (TIME.layer_s(0) + 2 * TIME.layer_s(1) + TIME.layer_s(2)) / 4
    assert TIME.token_s(0.5) == pytest.approx(8 * half)


@given(st.floats(0.6, 50.0), st.floats(0.0, 0.9))
def test_the_read_time_is_found_again(read_s, hit_rate):
    true = replace(TIME, read_s=read_s)
    fitted = replace(TIME, read_s=0.0).fitted(Measured(true.token_s(hit_rate), hit_rate))
    assert fitted.token_s(hit_rate) == pytest.approx(true.token_s(hit_rate))
    if read_s > 2 * TIME.expert_s:  # below, one read may hide entirely and say nothing
        assert fitted.read_s == pytest.approx(read_s)


@given(st.floats(0.0, 9.0), st.floats(1.1, 9.0), st.floats(0.0, 0.2), st.floats(0.5, 0.9))
def test_waiting_and_reading_are_told_apart(wait_s, read_s, low, high):
    true = replace(TIME, wait_s=wait_s, read_s=read_s)
    fitted = TIME.fitted(Measured(true.token_s(low), low), Measured(true.token_s(high), high))
    assert fitted.wait_s == pytest.approx(wait_s, abs=1e-4)
    assert fitted.read_s == pytest.approx(read_s, abs=1e-4)


def test_a_disk_that_is_never_waited_for():
    assert TIME.fitted(Measured(0.5 * TIME.token_s(1.0), 0.0)).read_s == 0.0


def test_computing_is_shared_by_bytes():
    time = split_compute(4.0, 16 << 20, 1 << 20, num_layers=8, top_k=2, tiles=4)
    assert time.expert_s == pytest.approx(4.0 / 32)
    assert time.token_s(1.0) == pytest.approx(4.0)


def test_a_slow_quarter_and_a_fast_one():
    seconds = np.array([1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 0.5, 0.5])
    assert (slowest_quarter(seconds), fastest_quarter(seconds)) == (3.0, 0.5)
    assert slowest_quarter(np.array([2.0])) == 2.0


def test_drawn_routing_has_the_statistics_it_was_drawn_from():
    rng = np.random.default_rng(1)
    frequency = rng.dirichlet(np.full(8, 4.0), 8) * 2
    overlap = np.linspace(0.3, 0.8, 8)
    trace = sample_from_statistics(GEOMETRY, frequency, overlap, tokens=3000)
    visits = np.array([experts for _, _, experts in trace.visits]).reshape(3000, 8, 2)
    shared = (visits[1:, :, :, None] == visits[:-1, :, None, :]).any(-1).mean(axis=(0, 2))
    assert np.abs(shared - overlap).max() < 0.12
    assert np.corrcoef(trace.counts().ravel(), frequency.ravel())[0, 1] > 0.9


def measurements(experts_that_fit):
    expert_bytes = experts_that_fit << 20
    split = SimpleNamespace(
        memory_bytes=(20 << 20) + expert_bytes,
        expert_bytes=expert_bytes,
        cycle_bytes=16 << 20,
        floor_bytes=23 << 20,
        frames=4 * experts_that_fit,
        frames_total=256,
    )
    probe = DiskProbe("pread", 1 << 20, [DiskSpeed(2, 1e9, True)])
    times = (TIME, replace(TIME, read_s=3.0), replace(TIME, read_s=1.0))
    return Measurements(GEOMETRY, split, 4, probe, 1e10, 32 << 20, times)


@pytest.fixture(scope="module")
def trace():
    return sample_from_statistics(GEOMETRY, np.full((8, 8), 0.25), np.full(8, 0.45))


def test_the_curve_rises_from_the_floor_to_everything(trace):
    plan = make_plan(measurements(32), trace, "text", None)
    memory = [p.memory_bytes for p in plan.curve]
    assert memory == sorted(set(memory))
    assert memory[0] == plan.floor_bytes
    assert memory[-1] == plan.everything_bytes == 84 << 20
    for a, b in zip(plan.curve[:-1], plan.curve[1:], strict=True):
        assert a.hit_rate <= b.hit_rate
        assert a.tokens_per_s <= b.tokens_per_s
    for p in plan.curve:
        assert p.hit_rate <= p.belady_hit_rate
        assert p.low <= p.tokens_per_s <= p.high
    assert plan.curve[-1].hit_rate == 1.0
    assert plan.at_memory in plan.curve
    assert plan.warnings == []
    assert set(plan.recommended) == set(plan.reasons)
    assert [p.share for p in budgets_to_check(plan)] == [0.125, 0.375, 0.5]


def test_below_a_cycle_there_is_a_warning_and_what_is_needed(trace):
    plan = make_plan(measurements(8), trace, "text", None)
    assert "36.00 MiB" in plan.warnings[0]
    assert plan.recommended["policy"] == "farthest-layer"


def test_more_memory_than_everything_is_not_recommended(trace):
    measured = measurements(64)
    measured.split.memory_bytes = 1 << 30
    plan = make_plan(measured, trace, "text", None)
    assert plan.recommended["memory"] == plan.everything_bytes
    assert plan.memory_max_bytes == plan.everything_bytes + SERVER_BYTES
    assert plan.at_memory.tokens_per_s == plan.curve[-1].tokens_per_s
    assert [p.share for p in budgets_to_check(plan)] == [0.25, 0.5, 0.75]


def test_prefetch_is_recommended_unless_predictions_are_known_to_be_bad(trace):
    def depth(accuracy):
        return make_plan(measurements(32), trace, "text", accuracy).recommended["prefetch"]

    assert depth(None) == 1
    assert depth(0.3) == 0
    assert depth(0.85) == 1


@pytest.mark.parametrize(("free", "most"), [(1 << 40, 256 << 20), (64 << 20, 32 << 20), (0, 64)])
def test_measuring_memory_fits_into_a_small_container(monkeypatch, free, most):
    sizes = []

    def ones(count, dtype):
        sizes.append(count * np.dtype(dtype).itemsize)
        return np.zeros(min(count, 1000), dtype)

    monkeypatch.setattr("adapmoe._core.available_memory", lambda: free)
    monkeypatch.setattr("adapmoe.machine.bandwidth.np.ones", ones)
    assert measure_memory(threads=2, seconds=0.0) > 0
    assert sum(sizes) == pytest.approx(most, abs=64)
