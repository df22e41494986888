# SPDX-License-Identifier: Apache-2.0
"""What one sequence remembers, and what goes wrong."""

import math

import numpy as np
import pytest

from adapmoe import AdapmoeError, SamplingParams
from adapmoe.generation.sampling import Sampler, log_softmax

LOGITS = np.array([1.0, 5.0, 4.5, 4.0, -2.0, 0.0], np.float32)


def tokens(count, prompt=(0,), **params):
    sampler = Sampler(np.array(prompt, np.int32), SamplingParams(**params))
    return [sampler.next(LOGITS)[0] for _ in range(count)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error(bad):
    sampler = Sampler(np.array([0], np.int32), SamplingParams())
    with pytest.raises(AdapmoeError, match="not finite"):
        sampler.next(np.array([0, bad, 1], np.float32))


def test_repetition_counts_prompt_and_answer():
    assert tokens(3) == [1, 1, 1]
    assert tokens(3, repetition_penalty=2.0) == [1, 2, 3]
    assert tokens(2, prompt=[1, 2, 1], repetition_penalty=2.0) == [3, 1]


def test_presence_and_frequency_count_the_answer_only():
    assert tokens(3, prompt=[1, 2], presence_penalty=0.75) == [1, 2, 1]
    assert tokens(5, prompt=[1, 2], frequency_penalty=0.75) == [1, 2, 1, 3, 2]
    assert tokens(3, presence_penalty=-1.0) == [1, 1, 1]


def test_bias_favours_and_bans():
    assert tokens(1, logit_bias={4: 8.0}) == [4]
    assert tokens(2, logit_bias={1: -math.inf, 2: -math.inf}) == [3, 3]
    with pytest.raises(AdapmoeError, match="banned all"):
        tokens(1, logit_bias=dict.fromkeys(range(6), -math.inf))


def test_processors_see_the_tokens_so_far_and_run_in_turn():
    seen = []

    def look(token_ids, logits):
        assert logits.dtype == np.float32
        seen.append(list(token_ids))
        logits[:] = -np.inf
        logits[len(token_ids) % 3] = 1.0
        return logits

    assert tokens(3, prompt=[5, 5], logits_processor=look) == [2, 0, 1]
    assert seen == [[5, 5], [5, 5, 2], [5, 5, 2, 0]]
    assert tokens(1, logits_processor=[look, lambda ids, logits: -LOGITS]) == [4]


def test_processors_come_after_bias_and_penalties():
    got = []

    def look(token_ids, logits):
        got.append(logits.copy())
        return logits

    tokens(1, prompt=[1], logit_bias={1: 1.0}, repetition_penalty=2.0, logits_processor=look)
    assert got[0][1] == 3.0


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (None, TypeError),
        (3.0, TypeError),
        ([0.0] * 6, TypeError),
        (np.zeros(6, bool), TypeError),
        (np.zeros(6, complex), TypeError),
        (np.zeros(6, object), TypeError),
        (np.array(["0"] * 6), TypeError),
        (np.zeros(5), ValueError),
        (np.zeros((1, 6)), ValueError),
    ],
)
def test_what_a_processor_returns_is_checked(wrong, kind):
    with pytest.raises(kind, match=r"logits processor must return an array of shape \(6,\)"):
        tokens(1, logits_processor=lambda ids, logits: wrong)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.longdouble, np.int64, np.uint8])
def test_a_processor_may_return_any_real_numbers(dtype):
    found = np.array([0, 1, 2, 9, 3, 4], dtype)
    assert tokens(1, logits_processor=lambda ids, logits: found) == [3]


def test_a_processor_that_bans_everything_is_an_error():
    with pytest.raises(AdapmoeError, match="no token is left"):
        tokens(1, logits_processor=lambda ids, logits: np.full_like(logits, -np.inf))


@pytest.mark.parametrize("bad", [np.nan, np.inf, np.longdouble("1e4000")])
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_processor_that_makes_a_logit_nan_or_infinite_is_an_error(bad, everywhere):
    def spoil(token_ids, logits):
        changed = logits.astype(np.longdouble)
        changed[0 if everywhere is False else slice(None)] = bad
        return changed

    with pytest.raises(AdapmoeError, match=r"processor made a logit NaN or \+inf"):
        tokens(1, logits_processor=spoil)


def test_a_processor_sees_a_huge_bias_as_the_largest_float32():
    seen = []

    def look(token_ids, logits):
        seen.append(logits)
        return logits

    bias = {3: 1e300, 4: -1e300, 5: -math.inf}
    assert tokens(1, logit_bias=bias, logits_processor=look) == [3]
    largest = np.finfo(np.float32).max
    assert seen[0].tolist() == [1.0, 5.0, 4.5, largest, -largest, -math.inf]


def test_warnings_of_a_processor_are_the_callers_business():
    def overflow(token_ids, logits):
        return logits * np.float32(3e38)

    with pytest.warns(RuntimeWarning, match="overflow"), pytest.raises(AdapmoeError):
        tokens(1, logits_processor=overflow)


def test_logprobs_are_those_of_the_model_before_any_change():
    params = SamplingParams(logprobs=3, logit_bias={1: -math.inf}, temperature=0.1, seed=1, top_k=1)
    token_id, found = Sampler(np.array([0], np.int32), params).next(LOGITS)
    expected = log_softmax(LOGITS)
    assert token_id == found.token_id == 2
    assert found.logprob == expected[2]
    assert found.top == tuple((i, expected[i]) for i in (1, 2, 3))
    assert found.as_dict()["top"][0] == {"token_id": 1, "logprob": expected[1]}
    assert math.isclose(sum(math.exp(v) for v in expected), 1.0)


def test_logprobs_of_equals_name_the_lower_id_first():
    params = SamplingParams(logprobs=2)
    _, found = Sampler(np.array([0], np.int32), params).next(np.zeros(5, np.float32))
    assert [i for i, _ in found.top] == [0, 1]
    assert Sampler(np.array([0], np.int32), SamplingParams()).next(LOGITS)[1] is None
    _, found = Sampler(np.array([0], np.int32), SamplingParams(logprobs=0)).next(LOGITS)
    assert found.top == ()
    assert (
        Sampler(np.array([0], np.int32), SamplingParams(logprobs=99)).next(LOGITS)[1].top[5][0] == 4
    )
