# SPDX-License-Identifier: Apache-2.0
"""Sampling at the ends of floating point: the limit, a token that exists, and never a warning.

NumPy's warnings are errors here, as in all tests.
"""

import math
import sys

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adapmoe import SamplingParams
from adapmoe.generation.sampling import (
    Sampler,
    add_bias,
    choose,
    log_softmax,
    make_rng,
    penalise_repetition,
    penalise_use,
    probabilities,
    token_logprobs,
    warp,
)

LARGEST, SMALLEST = sys.float_info.max, 5e-324
LOGITS = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.floats(-30, 30, width=32)
    | st.sampled_from([0.0, 1.0, -1.0]),
)
POSITIVE = st.floats(SMALLEST, LARGEST) | st.sampled_from(
    [SMALLEST, 1e-320, 1e-308, 1e-30, 0.7, 1.0, 1e30, 1e300, LARGEST]
)
ANY = st.floats(-LARGEST, LARGEST) | st.sampled_from([-LARGEST, -1e30, 0.0, 0.5, 1e30, LARGEST])
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.just(0.0) | POSITIVE,
        "top_k": st.integers(0, 50) | st.just(10**30),
        "top_p": st.floats(SMALLEST, 1) | st.sampled_from([SMALLEST, 0.5, 1 - 2**-53]),
        "min_p": st.floats(0, 1) | st.sampled_from([SMALLEST, 1.0]),
        "repetition_penalty": POSITIVE,
        "presence_penalty": ANY,
        "frequency_penalty": ANY,
        "logit_bias": st.dictionaries(st.integers(0, 39), ANY | st.just(-math.inf), max_size=6),
        "logprobs": st.integers(0, 50),
    },
)


def sampler_of(logits, **params):
    params.setdefault("seed", 3)
    return Sampler(np.array([0], np.int32), SamplingParams(**params))


@given(LOGITS, PARAMS, st.booleans())
@example(np.array([1, 2], np.float32), {"temperature": SMALLEST, "logit_bias": {0: -1e308}}, False)
@example(
    np.array([1, 2], np.float32),
    {"presence_penalty": LARGEST, "frequency_penalty": LARGEST, "logit_bias": {1: -math.inf}},
    False,
)
def test_a_token_that_is_not_banned_comes_out(logits, given_params, processed):
    bias = {t: b for t, b in given_params.get("logit_bias", {}).items() if t < logits.size}
    banned = {token for token, value in bias.items() if value == -math.inf}
    assume(len(banned) < logits.size)
    if processed:
        given_params = {**given_params, "logits_processor": lambda ids, scores: scores}
    sampler = sampler_of(logits, **{**given_params, "logit_bias": bias})
    for _ in range(3):  # penalties grow with use
        token, _ = sampler.next(logits)
        assert 0 <= token < logits.size
        assert token not in banned


@given(LOGITS, PARAMS)
def test_probabilities_sum_to_1(logits, given_params):
    given_params = {"temperature": 1.0, **given_params}
    assume(given_params["temperature"] > 0)
    given_params.pop("logit_bias", None)
    params = SamplingParams(**given_params)
    sampler = Sampler(np.array([0], np.int32), params)
    found = probabilities(warp(sampler._adjust(logits.astype(np.float64)), params))
    assert math.isclose(found.sum(), 1, rel_tol=1e-12)
    assert found.min() >= 0


@given(LOGITS, st.sampled_from([1e-38, 1e-100, 1e-300, 1e-310, SMALLEST]))
def test_the_limit_of_a_small_temperature_is_the_highest(logits, temperature):
    scores = logits.astype(np.float64)
    below = scores[scores < scores.max()]
    # Apart enough for this temperature: the next one has no probability left in float64.
    assume(below.size == 0 or (scores.max() - below.max()) / 800 > temperature)
    rng = make_rng(1)
    for _ in range(3):
        token = choose(scores, SamplingParams(temperature=temperature), rng)
        assert scores[token] == scores.max()


@given(LOGITS)
def test_the_limit_of_a_large_temperature_is_uniform(logits):
    scores = np.clip(logits.astype(np.float64), -1e30, 1e30)
    found = probabilities(warp(scores, SamplingParams(temperature=LARGEST)))
    np.testing.assert_allclose(found, 1 / scores.size, rtol=1e-12)


def test_equals_share_a_small_temperature():
    scores = np.array([-3.0, 7.0, 7.0, 6.0])
    found = probabilities(warp(scores, SamplingParams(temperature=SMALLEST)))
    assert found.tolist() == [0, 0.5, 0.5, 0]
    assert choose(scores, SamplingParams(temperature=0.0), make_rng(1)) == 1


@pytest.mark.parametrize("temperature", [0.0, SMALLEST, 1e-310, 0.8, 1.0, 1e5])
@pytest.mark.parametrize("size", [1e30, 1e300, LARGEST])
def test_a_huge_bias_decides(temperature, size):
    logits = np.array([5.0, 4.0, 3.0, -2.0], np.float32)

    def tokens(bias):
        sampler = sampler_of(logits, temperature=temperature, logit_bias=bias)
        return {sampler.next(logits)[0] for _ in range(8)}

    assert tokens({3: size}) == {3}
    assert 0 not in tokens({0: -size})
    assert tokens({0: -size, 1: -size, 2: -size}) == {3}
    assert tokens({2: size, 3: size / 2}) == {2}
    assert tokens({0: -math.inf, 3: -size, 1: -math.inf, 2: -math.inf}) == {3}


@pytest.mark.parametrize("penalty", [SMALLEST, 1e-300, 1e300, LARGEST])
def test_a_repetition_penalty_never_bans_nor_frees(penalty):
    scores = np.array([1e300, -1e300, 0.0, -math.inf, 5.0])
    found = penalise_repetition(scores, np.arange(4), penalty)
    assert np.isfinite(found[:3]).all()
    assert np.isneginf(found[3])
    assert found[4] == 5.0


@pytest.mark.parametrize("presence", [-LARGEST, 0.0, LARGEST])
@pytest.mark.parametrize("frequency", [-LARGEST, 1.0, LARGEST])
def test_penalties_of_use_never_ban_nor_free(presence, frequency):
    scores = np.array([LARGEST, -LARGEST, 0.0, -math.inf])
    found = penalise_use(scores, dict.fromkeys(range(4), 10**6), presence, frequency)
    assert np.isfinite(found[:3]).all()
    assert np.isneginf(found[3])


def test_a_bias_does_not_free_what_is_banned():
    scores = np.array([-math.inf, 0.0, LARGEST, -LARGEST])
    found = add_bias(scores, {0: LARGEST, 1: -math.inf, 2: LARGEST, 3: -LARGEST})
    assert found.tolist() == [-math.inf, -math.inf, LARGEST, -LARGEST]


@given(LOGITS)
def test_logprobs_of_any_logits_are_those_of_probabilities(logits):
    with np.errstate(all="raise"):  # a program that wants to hear of everything is not disturbed
        values = log_softmax(logits)
        top = token_logprobs(logits, 0, logits.size).top
        assert sampler_of(logits, temperature=0.5).next(logits)[0] < logits.size
    assert values.max() <= 0
    assert math.isclose(np.exp(np.maximum(values, -700)).sum(), 1, rel_tol=1e-12)
    assert [value for _, value in top] == sorted(values, reverse=True)


def test_logprobs_of_rows_are_those_of_each_row():
    rows = np.random.default_rng(0).normal(0, 5, (7, 1001)).astype(np.float32)
    assert np.array_equal(log_softmax(rows), np.stack([log_softmax(row) for row in rows]))
