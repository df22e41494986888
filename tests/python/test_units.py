# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.units import format_bytes, parse_memory, parse_percent


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12GiB", 12 * 2**30),
        ("2.5GB", 2_500_000_000),
        ("512MiB", 512 * 2**20),
        (" 1.5 gib ", 3 * 2**29),
        ("64kB", 64_000),
        ("1TiB", 2**40),
        ("1048576", 2**20),
        ("7B", 7),
        (123, 123),
        ("auto", 0),
        ("AUTO", 0),
    ],
)
def test_sizes_are_read(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "12 G", "12GiBs", "-1GiB", "1e9", "0", "0.1B", "٣GB"])
def test_other_text_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"12GiB|positive"):
        parse_memory(text)


@pytest.mark.parametrize("value", [0, -1, 2**63, "8388608TiB", "9" * 40, np.int64(0)])
def test_numbers_that_are_no_size_are_refused(value):
    with pytest.raises(ValueError, match="memory must be"):
        parse_memory(value)


@pytest.mark.parametrize("value", [True, None, 1.5, 2.0**33, np.float32(8), b"1GiB", [1]])
def test_what_is_neither_a_size_nor_an_integer_is_refused(value):
    with pytest.raises(TypeError, match="memory must be a whole number of bytes"):
        parse_memory(value)


def test_a_number_with_thousands_of_digits_is_no_size():
    with pytest.raises(ValueError, match=r"memory must be below 2\*\*63 bytes"):
        parse_memory(10**5000)
    with pytest.raises(ValueError, match="is not a size"):
        parse_memory("1" * 5000)


def test_a_numpy_integer_is_a_size():
    assert parse_memory(np.uint64(2**40)) == 2**40


@pytest.mark.parametrize("value", [50, 0.5, None, b"50%"])
def test_a_percentage_is_text(value):
    with pytest.raises(TypeError, match="a percentage must be a string"):
        parse_percent(value)


@given(st.integers(1, 2**50))
def test_plain_bytes_are_exact(count):
    assert parse_memory(str(count)) == parse_memory(count) == count


@given(st.integers(0, 2**50))
def test_formatted_bytes_are_close(count):
    text = format_bytes(count)
    if count:
        assert parse_memory(text) == pytest.approx(count, rel=0.01)


@pytest.mark.parametrize(("text", "expected"), [("50%", 0.5), ("100 %", 1.0), (" 12.5%", 0.125)])
def test_percentages_are_read(text, expected):
    assert parse_percent(text) == expected


@pytest.mark.parametrize("text", ["0.5", "50", "0%", "101%", "-5%", "%"])
def test_other_percentages_are_refused(text):
    with pytest.raises(ValueError, match="percentage"):
        parse_percent(text)
