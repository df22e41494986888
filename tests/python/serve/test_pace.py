# SPDX-License-Identifier: Apache-2.0
"""How many rows of prompts a step takes beside running answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.serve.pace import LEAST_ROWS, Pace


def after(gap, seconds_of, most=512, pace=None):
    """The most rows that a pace settles on, where a step takes `seconds_of(rows)`."""
    pace = pace or Pace(gap)
    taken = []
    for _ in range(60):
        taken.append(pace.rows(most))
        pace.observe(taken[-1], seconds_of(taken[-1]))
    return max(taken[-20:])


@given(st.floats(1e-5, 10), st.floats(0, 0.1), st.floats(1e-4, 2), st.integers(1, 4096))
def test_the_gap_is_as_stated(fixed, each, gap, most):
    def seconds_of(rows):
        return fixed + each * rows

    rows = after(gap, seconds_of, most=most)
    assert rows <= most
    assert rows >= min(most, LEAST_ROWS)
    assert rows <= LEAST_ROWS or seconds_of(rows) <= 1.001 * max(gap, 2 * seconds_of(LEAST_ROWS))


@pytest.mark.parametrize(
    ("gap", "seconds_of", "rows"),
    [
        (0.5, lambda rows: 0.001 * rows, 256),
        (0.1, lambda rows: 1.0, 512),  # all experts are read in any case
        (0.1, lambda rows: 0.1 * rows, 32),
        (10.0, lambda rows: 0.001 * rows, 512),
    ],
)
def test_what_it_settles_on(gap, seconds_of, rows):
    assert after(gap, seconds_of) == rows


def test_it_follows_a_machine_that_becomes_slower_or_faster():
    pace = Pace(0.5)
    for factor, expected in ((0.001, 256), (0.01, 32), (0.001, 256)):
        assert after(0.5, lambda rows, factor=factor: factor * rows, pace=pace) == expected


def test_whole_prompts_of_an_idle_server_teach_it_nothing_about_small_steps():
    pace = Pace(0.5)
    pace.observe(128, 2.2)  # nobody waited
    assert pace.rows(128) == LEAST_ROWS
    assert after(0.5, lambda rows: 0.05 + 2.15 * rows / 128, pace=pace, most=128) == 32
