# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from adapmoe.calibration.gate_rule import (
    drop_costs,
    expert_shares,
    select_experts,
    single_expert_ratio,
)
from adapmoe.calibration.probe import WINDOW_TOKENS, cut_windows, split_windows
from adapmoe.calibration.statistics import divergence, next_token_nll, spearman, upper_bound
from adapmoe.calibration.threshold import Trial, candidate_thresholds, largest_threshold
from adapmoe.errors import CalibrationError
from adapmoe.generation.sampling import log_softmax
from adapmoe.pack.manifest import Router

SOFTMAX_TOP2 = Router("softmax", 2, True, False, 1.0, 0)


def test_spearman_is_the_correlation_of_ranks():
    assert spearman([1, 2, 3, 4], [10, 200, 3000, 40000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3, 4, 5], [1, 2, 3, 5, 4]) == pytest.approx(0.9)
    assert spearman([1, 1, 2], [5, 5, 9]) == pytest.approx(1)  # ties share their mean rank
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    with pytest.raises(ValueError, match="same length"):
        spearman([1, 2], [1])


def test_divergence_of_known_distributions():
    p, q = np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]])
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    found = divergence(log_softmax(np.log(p) + 3), log_softmax(np.log(q) - 800))
    assert found == pytest.approx([expected])


def test_the_loss_of_a_window_is_that_of_its_next_tokens():
    logits = np.zeros((3, 4), np.float32)
    logits[1, 2] = 100
    assert next_token_nll(logits, np.array([0, 1, 2], np.int32)) == pytest.approx([math.log(4), 0])


def test_shares_of_the_selected_experts():
    logits = np.log(np.array([[0.1, 0.6, 0.2, 0.1]], np.float32))
    assert select_experts(logits, 2).tolist() == [[1, 2]]
    assert expert_shares(logits, SOFTMAX_TOP2) == pytest.approx(np.array([[0.75, 0.25]]))
    sigmoid = expert_shares(np.array([[0.0, 50.0]]), replace(SOFTMAX_TOP2, score="sigmoid"))
    assert sigmoid == pytest.approx(np.array([[2 / 3, 1 / 3]]))


def test_equal_logits_go_to_the_lower_expert():
    assert select_experts(np.zeros((1, 8), np.float32), 3).tolist() == [[0, 1, 2]]


def test_weak_experts_go_together():
    shares = np.array([[[0.6, 0.3, 0.1]]])
    costs = drop_costs(shares, np.array([2.0]))
    assert costs == pytest.approx(np.array([[[2 * 0.4**2, 2 * 0.1**2]]]))
    for threshold, single in ((0.01, 0), (0.1, 0), (0.33, 1)):
        assert single_expert_ratio(shares, np.array([2.0]), threshold) == [single]


def test_the_bound_is_above_the_mean_and_tightens_with_more_windows():
    noise = np.random.default_rng(3).normal(0.01, 0.1, (400, 255))
    few, many = upper_bound(noise[:10]), upper_bound(noise)
    assert noise[:10].mean() < few
    assert noise.mean() < many < few
    assert upper_bound(noise) == many
    assert upper_bound(np.full((3, 40), 0.5)) == pytest.approx(0.5)


def trial_of(cost):
    def run(threshold):
        return Trial(threshold, np.full((4, 128), cost(threshold)), saved=0.5, gated=1.0)

    return run


@given(st.integers(2, 200), st.floats(0, 1.2))
def test_bisection_finds_the_last_threshold_within_the_contract(count, cut):
    candidates = [float(i + 1) for i in range(count)]
    limit = math.expm1(0.01)
    calls = []

    def cost(threshold):
        calls.append(threshold)
        return 0.01 if threshold <= cut * count else 0.02

    best = largest_threshold(candidates, trial_of(cost), limit, lambda *_: None)
    kept = [t for t in candidates if t <= cut * count]
    assert (best.threshold if best else None) == (kept[-1] if kept else None)
    assert len(calls) <= math.ceil(math.log2(count)) + 2


def test_candidates_rise_and_the_last_drops_everything():
    costs = np.random.default_rng(1).exponential(1, (8, 500, 1))
    candidates = candidate_thresholds(costs)
    assert candidates == sorted(set(candidates))
    assert (costs < candidates[-1]).all()
    dropped = [(costs < t).mean() for t in candidates]
    assert np.diff(dropped).max() < 0.01


def test_windows_are_spread_and_split():
    ids = np.arange(10 * WINDOW_TOKENS + 99, dtype=np.int32)
    windows = cut_windows(ids)
    assert [w[0] // WINDOW_TOKENS for w in windows] == list(range(10))
    split = split_windows(windows, 5)
    starts = [[w[0] // WINDOW_TOKENS for w in part] for part in (split.fit, split.held_out)]
    assert starts == [[0, 2, 4], [6, 8]]
    for count in (3, 11):
        with pytest.raises(ValueError, match="windows must be from 4 to 10"):
            split_windows(windows, count)


def test_a_short_text_is_refused():
    with pytest.raises(CalibrationError, match="needs 1024 or more"):
        cut_windows(np.zeros(1023, np.int32))
