# SPDX-License-Identifier: Apache-2.0
"""How far to look ahead, decided by step times, here of made-up steps with known costs."""

import numpy as np
import pytest

from adapmoe._testing import DepthJudge

NOISE = 0.25  # of single steps; the widened model at half residency has 0.23


def decode(judge, cost, steps, *, seed=0, noise=NOISE, drift=0.0, rows=lambda step: 1):
    """Depths used and seconds taken by `steps` steps whose mean is `cost(depth)`."""
    numbers = np.random.default_rng(seed)
    depths, seconds = [], []
    for step in range(steps):
        depths.append(judge.depth)
        mean = cost(judge.depth) * rows(step) * (1 + drift * step)
        seconds.append(mean * float(numbers.lognormal(0.0, noise)))
        judge.observe(seconds[-1], rows(step))
    return np.array(depths), np.array(seconds)


def share_of(depths, depth):
    return float(np.mean(depths == depth))


def mean_share(depth, cost, *, steps=2000, seeds=40, **options):
    """How much `depth` is used, over many sequences."""
    runs = (decode(DepthJudge(1), cost, steps, seed=seed, **options)[0] for seed in range(seeds))
    return float(np.mean([share_of(depths, depth) for depths in runs]))


def test_what_pays_stays_on():
    assert mean_share(1, lambda depth: 0.27 if depth else 0.30) > 0.9


def test_what_costs_is_turned_off():
    assert mean_share(0, lambda depth: 0.40 if depth else 0.30) > 0.9


def test_bad_prefetch_costs_a_few_percent_at_most():
    assert 0.25 * mean_share(1, lambda depth: 1.25 if depth else 1.0) < 0.03


def test_trials_of_good_prefetch_cost_little():
    assert 0.1 * mean_share(0, lambda depth: 0.9 if depth else 1.0) < 0.015


def test_no_difference_changes_nothing_for_long():
    """A wrong change happens, but rarely: it costs nothing where there is no difference."""
    ends = [decode(DepthJudge(1), lambda _: 1.0, 400, seed=seed)[0][-1] for seed in range(60)]
    assert np.mean(np.array(ends) == 1) > 0.8


@pytest.mark.parametrize(("best", "seed"), [(b, s) for b in range(4) for s in range(3)])
def test_the_best_of_several_depths_is_found(best, seed):
    depths, _ = decode(
        DepthJudge(3), lambda depth: 1.0 + 0.2 * abs(depth - best), 6000, noise=0.15, seed=seed
    )
    assert share_of(depths[3000:], best) > 0.8


def test_drift_is_not_taken_for_a_difference():
    """Longer contexts make later steps slower, whatever the depth."""
    ends = [
        decode(DepthJudge(1), lambda _: 1.0, 300, seed=seed, noise=0.05, drift=0.01)[0][-1]
        for seed in range(40)
    ]
    assert np.mean(np.array(ends) == 1) > 0.8


def test_single_slow_steps_are_not_evidence():
    judge = DepthJudge(1)
    for step in range(3000):
        hiccup = 50.0 if step % 97 == 0 else 1.0
        judge.observe(hiccup * (0.8 if judge.depth else 1.0))
    assert judge.depth == 1


def test_batches_of_other_sizes_are_not_compared():
    """The size changes in step with the stretches, which would look like a difference."""
    for period in (4, 5):
        judge = DepthJudge(1)
        rows = [1 + step // period % 2 for step in range(2000)]
        depths, _ = decode(judge, lambda _: 1.0, 2000, noise=0.01, rows=rows.__getitem__)
        assert not np.any((depths[1:] == 0) & (depths[:-1] == 0))  # no stretch came to its end


def test_it_notices_that_things_have_changed():
    judge = DepthJudge(1)
    decode(judge, lambda depth: 1.4 if depth else 1.0, 1000)
    assert judge.depth == 0
    depths, _ = decode(judge, lambda depth: 0.7 if depth else 1.0, 4000, seed=1)
    assert share_of(depths[-1500:], 1) > 0.8


def test_depth_zero_and_senseless_times_are_left_alone():
    judge = DepthJudge(0)
    for seconds in (1.0, 0.0, -1.0, float("nan"), *[1.0] * 200):
        judge.observe(seconds)
        assert judge.depth == 0
    judge = DepthJudge(2)
    for _ in range(100):
        judge.observe(float("nan"))
    assert judge.depth == 2
