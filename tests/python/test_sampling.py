# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adapmoe.generation.params import SamplingParams
from adapmoe.generation.sampling import choose, draw, make_rng


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=st.integers(-5, 5)))
def test_temperature_0_takes_the_lowest_index_of_the_highest(logits):
    token = choose(logits, SamplingParams(), make_rng(0))
    assert token == min(np.flatnonzero(logits == logits.max()))


def test_temperature_0_leaves_the_generator_alone():
    rng = make_rng(3)
    choose(np.zeros(4), SamplingParams(), rng)
    assert rng.random() == make_rng(3).random()


def test_draws_follow_the_probabilities():
    probs = np.array([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    rng = make_rng(1)
    counts = np.bincount([draw(probs, rng) for _ in range(20_000)], minlength=6) / 20_000
    np.testing.assert_allclose(counts, probs, atol=0.015)
    assert not counts[probs == 0].any()


class _Fixed:
    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


@pytest.mark.parametrize("point", [0.0, np.nextafter(1, 0)])
def test_the_ends_of_the_interval_never_give_an_impossible_token(point):
    probs = np.array([0.0, 0.1, 0.7, 0.2, 0.0])
    assert draw(probs, _Fixed(point)) in (1, 3)


def test_a_seed_repeats_and_seeds_differ():
    logits = np.zeros(1000)
    params = SamplingParams(temperature=1.0)

    def tokens(seed):
        rng = make_rng(seed)
        return [choose(logits, params, rng) for _ in range(8)]

    assert tokens(5) == tokens(5)
    assert tokens(5) != tokens(6)
