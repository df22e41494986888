# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math
import typing
from decimal import Decimal

import numpy as np
import pytest

from adapmoe import SamplingParams
from adapmoe.generation.params import SamplingOverrides


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"max_tokens": -3}, "max_tokens must be at least 1, not -3"),
        ({"temperature": -0.1}, "temperature must be 0 or a positive finite number"),
        ({"temperature": float("nan")}, "temperature must be a finite number, not nan"),
        ({"temperature": float("inf")}, "temperature must be a finite number, not inf"),
        ({"temperature": 10**400}, "temperature must be a finite number"),
        ({"temperature": 10**5000}, "temperature must be a finite number, not a value of type int"),
        ({"temperature": np.longdouble("1e4000")}, "temperature must be a finite number"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1"),
        ({"top_p": math.nan}, "top_p must be a finite number"),
        ({"min_p": -0.1}, "min_p must be from 0 to 1"),
        ({"min_p": 1.5}, "min_p must be from 0 to 1"),
        ({"min_p": math.nan}, "min_p must be a finite number"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be a positive"),
        ({"repetition_penalty": -1}, "repetition_penalty must be a positive"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be a finite"),
        ({"presence_penalty": math.nan}, "presence_penalty must be a finite number"),
        ({"frequency_penalty": math.inf}, "frequency_penalty must be a finite number"),
        ({"logit_bias": {5: math.inf}}, r"logit_bias\[5\] must be a finite number or -inf"),
        ({"logit_bias": {5: math.nan}}, r"logit_bias\[5\] must be a finite number or -inf"),
        ({"logit_bias": {-5: 1.0}}, "a key of logit_bias must be at least 0, not -5"),
        ({"stop_token_ids": [7, -1]}, r"stop_token_ids\[1\] must be at least 0"),
        ({"logprobs": -1}, "logprobs must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"stop": ""}, "stop must be a non-empty string"),
        ({"stop": ["x", ""]}, r"stop\[1\] must be a non-empty string"),
        ({"stop": "\ud800"}, "stop must be text that UTF-8 can hold"),
    ],
)
def test_parameters_out_of_range_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**wrong)


NO_INTEGERS = [2.5, 64.0, True, np.True_, np.float64(3), "64", b"64", [64], {}, object()]
NO_NUMBERS = [None, True, np.False_, "0.5", 1j, [0.5], np.array([0.5]), Decimal("0.5")]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_tokens", NO_INTEGERS),
        ("top_k", [*NO_INTEGERS, None]),
        ("seed", NO_INTEGERS),
        ("logprobs", NO_INTEGERS),
        ("temperature", NO_NUMBERS),
        ("top_p", NO_NUMBERS),
        ("min_p", NO_NUMBERS),
        ("repetition_penalty", NO_NUMBERS),
        ("presence_penalty", NO_NUMBERS),
        ("frequency_penalty", NO_NUMBERS),
        ("ignore_eos", [None, 0, 1, 1.0, "yes", []]),
        ("stop", [None, 5, b"x", [5], ["x", None], [b"x"], {"x": 1}]),
        ("stop_token_ids", [None, 5, "5", b"5", {5: 1}, [1.5], [True], ["5"], [[5]], np.array(5)]),
        ("logit_bias", [None, 5, [5], [(5, 1.0)], {"5": 1.0}, {5.0: 1.0}, {True: 1.0}]),
        ("logit_bias", [{5: wrong} for wrong in NO_NUMBERS]),
        ("logits_processor", [None, 5, "x", [5], [abs, None], np.array(5)]),
    ],
)
def test_parameters_of_a_wrong_type_are_named(name, values):
    for value in values:
        with pytest.raises(TypeError, match=rf"\b{name}(\[.*\])? must be .*, not "):
            SamplingParams(**{name: value})


def test_the_message_says_what_was_given():
    with pytest.raises(TypeError, match=r"^max_tokens must be an integer, not 2\.5 \(float\)$"):
        SamplingParams(max_tokens=2.5)
    with pytest.raises(TypeError, match=r"^top_k must be an integer, not None$"):
        SamplingParams(top_k=None)
    with pytest.raises(TypeError) as error:
        SamplingParams(seed="x" * 10**6)
    assert len(str(error.value)) < 100


def test_numbers_of_numpy_become_plain_ones():
    params = SamplingParams(
        max_tokens=np.int32(5),
        temperature=np.float32(0.5),
        top_k=np.uint8(3),
        top_p=1,
        ignore_eos=np.True_,
        logit_bias={np.int64(5): np.float64(2), 6: 1, 7: np.float32(-np.inf)},
        stop_token_ids=np.array([7, 9]),
    )
    assert params == SamplingParams(
        max_tokens=5,
        temperature=0.5,
        top_k=3,
        ignore_eos=True,
        logit_bias={5: 2.0, 6: 1.0, 7: -math.inf},
        stop_token_ids=(7, 9),
    )
    plain = (params.max_tokens, params.temperature, params.top_k, params.top_p, params.ignore_eos)
    assert [type(value) for value in plain] == [int, float, int, float, bool]
    assert {type(value) for item in params.logit_bias.items() for value in item} == {int, float}
    assert {type(value) for value in params.stop_token_ids} == {int}


def test_settings_by_name_replace_those_of_params():
    assert SamplingParams.of() == SamplingParams.of(None) == SamplingParams()
    assert SamplingParams.of(max_tokens=64) == SamplingParams(max_tokens=64)
    params = SamplingParams(max_tokens=5, top_k=3, stop="a")
    assert SamplingParams.of(params) == params
    assert SamplingParams.of(params, max_tokens=None, seed=1) == SamplingParams(
        top_k=3, stop="a", seed=1
    )
    assert params.max_tokens == 5


def test_settings_by_name_are_checked():
    with pytest.raises(
        TypeError, match=r"'max_token' is not .*; there are max_tokens, temperature,"
    ):
        SamplingParams.of(max_token=64)
    with pytest.raises(TypeError, match="max_tokens must be an integer"):
        SamplingParams.of(max_tokens=2.5)
    for wrong in ({"max_tokens": 64}, 64, "greedy", SamplingParams):
        with pytest.raises(TypeError, match="params must be SamplingParams or None"):
            SamplingParams.of(wrong)


def test_type_checkers_know_every_setting():
    settings = typing.get_type_hints(SamplingParams)
    assert typing.get_type_hints(SamplingOverrides) == settings


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
