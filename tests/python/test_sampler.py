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


@pytest.mark.parametrize("wrong", [None, 3.0, np.zeros(5), np.zeros((1, 6))])
def test_what_a_processor_returns_is_checked(wrong):
    with pytest.raises(ValueError, match=r"logits processor must return an array of shape \(6,\)"):
        tokens(1, logits_processor=lambda ids, logits: wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_processor_that_leaves_nothing_is_an_error(bad):
    with pytest.raises(AdapmoeError, match="no token is left"):
        tokens(1, logits_processor=lambda ids, logits: np.full_like(logits, bad))


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
