# SPDX-License-Identifier: Apache-2.0
"""The checks of values themselves; tests of the entries that use them are in test_api_types.py."""

import array
import collections
from pathlib import Path

import numpy as np
import pytest

from adapmoe import checks

VOCAB = 100


@pytest.mark.parametrize(
    "ids",
    [
        [1, 5, 99],
        (1, 5, 99),
        [np.int64(1), np.uint8(5), 99],
        np.array([1, 5, 99]),
        np.array([1, 5, 99], np.uint64),
        np.array([1, 0, 5, 0, 99], np.int16)[::2],
        np.array([1, 5, 99], object),
        array.array("i", [1, 5, 99]),
        collections.deque([1, 5, 99]),
    ],
)
def test_integers_in_any_sequence_are_token_ids(ids):
    found = checks.token_ids("ids", ids, VOCAB)
    assert found.dtype == np.int32
    assert found.flags.c_contiguous
    assert found.tolist() == [1, 5, 99]
    assert checks.token_ids("ids", range(3), VOCAB).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (None, "ids must be token ids, a sequence of integers, not None"),
        (5, "ids must be token ids"),
        ("12", "ids must be token ids"),
        (b"12", "ids must be token ids"),
        (bytearray(b"12"), "ids must be token ids"),
        ({1: 2}, "ids must be token ids"),
        ({1, 2}, "ids must be token ids"),
        (iter([1, 2]), "ids must be token ids"),
        ([1, 2.0], r"ids\[1\] must be a token id, an integer, not 2\.0 \(float\)"),
        ([True, 2], r"ids\[0\] must be a token id, an integer, not True \(bool\)"),
        ([1, "2"], r"ids\[1\] must be a token id"),
        ([1, None], r"ids\[1\] must be a token id"),
        ([[1, 2]], r"ids\[0\] must be a token id"),
        (np.array([1.0]), "ids must be token ids, integers, not an array of float64"),
        (np.array([True]), "ids must be token ids, integers, not an array of bool"),
        (np.array(["1"]), "ids must be token ids, integers"),
        (np.array([1, 2.5], object), r"ids\[1\] must be a token id"),
        (np.array([1, None], object), r"ids\[1\] must be a token id"),
    ],
)
def test_anything_else_is_not(ids, message):
    with pytest.raises(TypeError, match=message):
        checks.token_ids("ids", ids, VOCAB)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "ids must be at least one token id"),
        (np.array([]), "ids must be at least one token id"),
        (np.array(5), "ids must be one row of token ids"),
        (np.zeros((1, 2), int), r"one row of token ids, not an array of shape \(1, 2\)"),
        ([1, VOCAB], r"ids\[1\]: token id 100 is outside the vocabulary of 100 tokens"),
        ([-1], r"ids\[0\]: token id -1 is outside"),
        ([5, 2**40], r"ids\[1\]: token id 1099511627776 is outside"),
        ([-1, 2**63], r"ids\[0\]: token id -1 is outside"),
        ([5, 2**70], r"ids\[1\]: token id 1180591620717411303424 is outside"),
        ([5, 10**5000], r"ids\[1\]: token id a value of type int is outside"),
        (np.array([2**64 - 1], np.uint64), r"ids\[0\]: token id 18446744073709551615 is outside"),
        (np.array([1, 2**70], object), r"ids\[1\]: token id 1180591620717411303424 is outside"),
    ],
)
def test_ids_that_no_token_has_are_out_of_range(ids, message):
    with pytest.raises(ValueError, match=message):
        checks.token_ids("ids", ids, VOCAB)


def test_one_token_id_may_come_from_numpy():
    found = checks.token_id("id", np.argmax([0, 1]), VOCAB)
    assert (found, type(found)) == (1, int)
    assert checks.token_id("id", 2**70) == 2**70


def test_a_value_that_cannot_be_shown_is_named_by_its_type():
    class Secret:
        def __repr__(self):
            raise RuntimeError("no")

    with pytest.raises(TypeError, match=r"x must be an integer, not .*Secret"):
        checks.integer("x", Secret())
    assert len(checks.shown(["x" * 1000] * 1000)) < 300


def test_paths_are_text():
    assert checks.path("path", "a") == "a"
    assert checks.path("path", Path("a")) == Path("a")
    for wrong in (None, b"a", 5, ["a"]):
        with pytest.raises(TypeError, match="path must be a path"):
            checks.path("path", wrong)
