# SPDX-License-Identifier: Apache-2.0
"""The gate: the model's own top-k, AdapMoE's rule, and G7."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from adapmoe import _testing

# Multiples of 1/8, so that different logits have clearly different scores and equal ones tie.
GRID_LOGITS = st.lists(st.integers(-80, 80).map(lambda n: n / 8), min_size=2, max_size=16)
# Less than 87 apart: below that, scores are clamped and tie.
ANY_LOGITS = st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=16)


def reference_top_k(logits, top_k, score="softmax", renormalize=True, scale=1.0):
    """(experts ascending, weights) in float64; ties go to the lower index."""
    logits = np.asarray(logits, np.float64)
    if score == "softmax":
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
    else:
        scores = 1 / (1 + np.exp(-logits))
    chosen = np.sort(np.argsort(-logits, kind="stable")[:top_k])
    weights = scores[chosen]
    if renormalize:
        weights = weights / weights.sum()
    return chosen, weights * scale


@given(
    logits=GRID_LOGITS,
    data=st.data(),
    score=st.sampled_from(["softmax", "sigmoid"]),
    renormalize=st.booleans(),
    scale=st.sampled_from([1.0, 2.5]),
)
def test_top_k_equals_numpy(logits, data, score, renormalize, scale):
    if score == "sigmoid":
        logits = [x / 2 for x in logits]  # beyond +-15, float32 sigmoids round to ties
        assume(max(logits) <= 4)
    top_k = data.draw(st.integers(1, len(logits)))
    experts, weights = _testing.select_top_k(logits, top_k, score, renormalize, scale)
    chosen, exact = reference_top_k(logits, top_k, score, renormalize, scale)
    np.testing.assert_array_equal(experts, chosen)
    np.testing.assert_allclose(weights, exact, rtol=2e-6, atol=1e-37)


@given(logits=ANY_LOGITS, data=st.data())
def test_top_k_chooses_the_largest_of_any_logits(logits, data):
    top_k = data.draw(st.integers(1, len(logits)))
    experts, weights = _testing.select_top_k(logits, top_k)
    assert experts == sorted(set(experts))
    assert len(experts) == top_k
    rest = set(range(len(logits))) - set(experts)
    if rest:  # scores are rounded: logits that differ in the last bit may tie
        assert min(logits[e] for e in experts) >= max(logits[e] for e in rest) - 1e-5
    assert sum(weights) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("logits", "top_k", "experts", "weights"),
    [
        ([1, 2, 3, 2], 2, [1, 2], [1 / (1 + np.e), np.e / (1 + np.e)]),
        ([0, 0, 0, 0], 2, [0, 1], [0.5, 0.5]),
        ([0, 5, 5, 5], 2, [1, 2], [0.5, 0.5]),
        ([-3, 7], 1, [1], [1.0]),
        ([np.log(4), np.log(1), np.log(3), np.log(2)], 4, [0, 1, 2, 3], [0.4, 0.1, 0.3, 0.2]),
        ([1000, -1000, 999], 2, [0, 2], [np.e / (1 + np.e), 1 / (1 + np.e)]),
    ],
)
def test_golden_selections(logits, top_k, experts, weights):
    found = _testing.select_top_k(logits, top_k)
    assert found[0] == experts
    np.testing.assert_allclose(found[1], weights, rtol=1e-6)


@given(
    logits=ANY_LOGITS,
    data=st.data(),
    sensitivity=st.lists(st.floats(0, 1e6, width=32), min_size=3, max_size=3),
    layer=st.integers(0, 2),
)
def test_g7_threshold_zero_is_exact_top_k(logits, data, sensitivity, layer):
    top_k = data.draw(st.integers(1, len(logits)))
    exact = _testing.select_top_k(logits, top_k)
    assert _testing.route(logits, layer, top_k, True, 0.0, sensitivity) == exact
    assert _testing.route(logits, layer, top_k, False, 1e9, sensitivity) == exact


def test_the_layer_chooses_the_sensitivity():
    logits, sensitivity = [0.0, 1.0, 3.0, 2.0], [100.0, 0.001]
    assert _testing.route(logits, 0, 2, True, 0.01, sensitivity)[0] == [2, 3]
    assert _testing.route(logits, 1, 2, True, 0.01, sensitivity) == ([2], [1.0])


@given(
    strong=st.floats(0.5, 1, exclude_max=True, width=32),
    first_is_strong=st.booleans(),
    sensitivity=st.floats(0.0, 100, width=32),
    threshold=st.floats(0.0, 30, width=32),
)
def test_top_2_drops_the_second_expert_by_the_papers_rule(
    strong, first_is_strong, sensitivity, threshold
):
    weak = float(np.float32(1) - np.float32(strong))
    measure = sensitivity * weak**2
    assume(abs(measure - threshold) > 1e-5 * measure)
    weights = [strong, weak] if first_is_strong else [weak, strong]
    decision = ([3, 5], weights)
    found = _testing.drop_insensitive(decision, True, sensitivity, threshold)
    strongest = 0 if weights[0] >= weights[1] else 1
    expected = ([3 + 2 * strongest], [1.0]) if measure < threshold else decision
    assert found == expected


def reference_drop(weights, sensitivity, threshold):
    """Positions kept, and how near the decision was: the weakest go together while they may."""
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    total, dropped, nearest = sum(weights), 0.0, np.inf
    while len(order) > 1:
        measure = sensitivity * ((dropped + weights[order[-1]]) / total) ** 2
        nearest = min(nearest, abs(measure - threshold) / max(measure, 1e-30))
        if measure >= threshold:
            break
        dropped += weights[order.pop()]
    return sorted(order), nearest


@given(
    weights=st.lists(st.floats(0.015625, 1, width=32), min_size=1, max_size=8),
    renormalize=st.booleans(),
    sensitivity=st.floats(0.015625, 100, width=32),
    threshold=st.floats(0.0, 50, width=32),
)
def test_any_top_k_drops_the_weakest_together(weights, renormalize, sensitivity, threshold):
    experts = [2 * i + 1 for i in range(len(weights))]
    kept, nearest = reference_drop(weights, sensitivity, threshold)
    assume(nearest > 1e-5)
    found = _testing.drop_insensitive((experts, weights), renormalize, sensitivity, threshold)
    assert found[0] == [experts[i] for i in kept]
    expected = np.array([weights[i] for i in kept])
    if renormalize:
        expected *= sum(weights) / expected.sum()
    np.testing.assert_allclose(found[1], expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("threshold", "experts", "weights"),
    [
        (0.0, [0, 1, 2, 3], [0.4, 0.1, 0.3, 0.2]),
        (0.009, [0, 1, 2, 3], [0.4, 0.1, 0.3, 0.2]),  # 0.1^2 = 0.01 is not below it
        (0.05, [0, 2, 3], [4 / 9, 3 / 9, 2 / 9]),
        (0.1, [0, 2], [4 / 7, 3 / 7]),  # 0.3^2 = 0.09
        (0.5, [0], [1.0]),  # 0.6^2 = 0.36
        (1e9, [0], [1.0]),  # one expert always stays
    ],
)
def test_golden_drops(threshold, experts, weights):
    decision = ([0, 1, 2, 3], [0.4, 0.1, 0.3, 0.2])
    found = _testing.drop_insensitive(decision, True, 1.0, threshold)
    assert found[0] == experts
    np.testing.assert_allclose(found[1], weights, rtol=1e-6)


def test_a_layer_without_sensitivity_keeps_its_strongest_expert():
    assert _testing.drop_insensitive(([4, 6], [0.5, 0.5]), True, 0.0, 1e-9) == ([4], [1.0])
