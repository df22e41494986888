# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math

import numpy as np
import pytest

from adapmoe import SamplingParams


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.inf},
        {"presence_penalty": math.nan},
        {"frequency_penalty": math.inf},
        {"logit_bias": {5: math.inf}},
        {"logit_bias": {5: math.nan}},
        {"logit_bias": {-5: 1.0}},
        {"logit_bias": {"5": 1.0}},
        {"stop_token_ids": [-1]},
        {"stop_token_ids": [1.5]},
        {"stop_token_ids": [True]},
        {"logprobs": -1},
        {"logits_processor": [5]},
        {"seed": -1},
        {"stop": ""},
        {"stop": ["x", ""]},
    ],
)
def test_parameters_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be"):
        SamplingParams(**wrong)


def test_stop_is_one_string_or_several():
    assert SamplingParams(stop="ab").stop_strings == ("ab",)
    assert SamplingParams(stop=["a", "b"]).stop_strings == ("a", "b")
    assert SamplingParams().stop_strings == ()


def test_a_processor_is_one_callable_or_several():
    def same(token_ids, logits):
        return logits

    assert SamplingParams(logits_processor=same).logits_processors == (same,)
    assert SamplingParams(logits_processor=[same, same]).logits_processors == (same, same)
    assert SamplingParams().logits_processors == ()


def test_parameters_cannot_be_changed_from_outside():
    bias, stops = {5: 1.0}, [7]
    params = SamplingParams(logit_bias=bias, stop_token_ids=stops)
    bias[6], stops[0] = 2.0, 9
    assert (params.logit_bias, params.stop_token_ids) == ({5: 1.0}, (7,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.min_p = 0.5
    assert params == SamplingParams(logit_bias={5: 1.0}, stop_token_ids=[np.int64(7)])
    assert hash(params) == hash(dataclasses.replace(params))


def test_a_token_can_be_banned_but_must_exist():
    params = SamplingParams(logit_bias={9: -math.inf}, stop_token_ids=[3])
    params.check_vocabulary(10)
    with pytest.raises(ValueError, match=r"logit_bias: token id 9 is outside .* 9 tokens"):
        params.check_vocabulary(9)
    with pytest.raises(ValueError, match="stop_token_ids: token id 3"):
        SamplingParams(stop_token_ids=[3]).check_vocabulary(3)
