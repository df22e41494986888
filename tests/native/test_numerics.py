# SPDX-License-Identifier: Apache-2.0
"""exp, sine and cosine, halves and the checksum against float64, NumPy and a bitwise CRC."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe import _testing
from support.core import kernel_reference
from support.packs.packed_reference import crc32c

SEEDS = st.integers(0, 2**32 - 1)


def ulps(found, exact):
    """Distance of float32 `found` from float64 `exact`, in units in the last place of `exact`."""
    return np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


def test_exp_is_within_one_ulp():
    x = np.linspace(-87, 88, 400_001, dtype=np.float32)
    assert ulps(_testing.exp(x), np.exp(x.astype(np.float64))).max() <= 1


def test_exp_special_values():
    found = _testing.exp(np.float32([0, -0.0, -87, -88, -1e30, -np.inf, 88, 89, 1e30, np.inf]))
    low, high = found[2], found[6]
    np.testing.assert_array_equal(found, [1, 1, low, low, low, low, high, high, high, high])
    assert low == pytest.approx(np.exp(-87), rel=1e-6)
    assert high == pytest.approx(np.exp(88), rel=1e-6)


@pytest.mark.parametrize("largest", [1e-3, 10.0, 1e4, 1e6, 2.0**30 - 64])
def test_sincos_is_within_one_ulp(largest):
    rng = np.random.default_rng(5)
    angles = np.concatenate(
        [
            rng.uniform(-largest, largest, 100_000),
            np.arange(1, 20_000) * (np.pi / 2),  # where one of the two almost vanishes
        ]
    ).astype(np.float32)
    angles = angles[np.abs(angles) <= largest]
    sine, cosine = _testing.sincos(angles)
    wide = angles.astype(np.float64)
    assert ulps(sine, np.sin(wide)).max() <= 1
    assert ulps(cosine, np.cos(wide)).max() <= 1


def test_sincos_at_zero():
    sine, cosine = _testing.sincos(np.zeros(1, np.float32))
    assert (sine[0], cosine[0]) == (0, 1)


def test_every_half_becomes_its_float():
    halves = np.arange(1 << 16, dtype=np.uint16)
    found = _testing.half_to_float(halves)
    expected = halves.view(np.float16).astype(np.float32)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(found[number].view(np.int32), expected[number].view(np.int32))
    assert np.isnan(found[~number]).all()


def check_halves(floats, convert):
    with np.errstate(over="ignore", invalid="ignore"):
        expected = floats.astype(np.float16)
    found = convert(floats)
    number = ~np.isnan(floats)
    np.testing.assert_array_equal(found[number], expected.view(np.uint16)[number])
    assert np.isnan(found[~number].view(np.float16)).all()


def halves_and_midpoints():
    """Every finite half, the midpoint to its neighbour, and the floats beside both."""
    finite = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = finite + np.diff(finite, append=np.float32(65536)) / 2
    exact = np.concatenate([finite, middles])
    floats = [exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, -exact)]
    floats = np.concatenate(floats)
    floats = np.concatenate([floats, -floats, np.float32([1e10, np.inf, -np.inf, np.nan])])
    return np.resize(floats, -(-floats.size // 16) * 16)


def test_floats_round_to_the_nearest_half():
    check_halves(halves_and_midpoints(), _testing.float_to_half)


@given(seed=SEEDS)
def test_any_float_rounds_to_the_nearest_half(seed):
    bits = np.random.default_rng(seed).integers(0, 2**32, 4096, np.uint32)
    check_halves(bits.view(np.float32), _testing.float_to_half)


@pytest.mark.parametrize("kernels", _testing.kernel_names())
def test_g6_to_half(kernels):
    floats = halves_and_midpoints()
    found = _testing.to_half(kernels, floats)
    np.testing.assert_array_equal(found, _testing.to_half("scalar", floats))
    check_halves(floats, lambda x: _testing.to_half(kernels, x))


@given(seed=SEEDS, size=st.integers(0, 7000), start=st.integers(0, 9))
def test_both_checksums_equal_the_bitwise_one(seed, size, start):
    data = np.random.default_rng(seed).integers(0, 256, start + size, np.uint8)[start:]
    expected = crc32c(data.tobytes())
    assert _testing.crc32c(data) == _testing.crc32c_portable(data) == expected


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("offset", [-8, -1, 0, 1, 8])
def test_checksums_agree_around_lane_boundaries(lanes, offset):
    data = np.random.default_rng(3).integers(0, 256, 3072 * lanes + offset, np.uint8)
    assert _testing.crc32c(data) == _testing.crc32c_portable(data)


def test_checksum_check_value():
    data = np.frombuffer(b"123456789", np.uint8)
    assert _testing.crc32c(data) == _testing.crc32c_portable(data) == 0xE3069283


def to_float32(value):
    """The float32 nearest to a Fraction, ties to even."""
    if value == 0:
        return np.float32(0)
    exponent = int(np.floor(np.log2(float(abs(value))))) - 23
    unit = Fraction(2) ** max(exponent, -149)
    return np.float32(float(round(value / unit) * unit))


def test_the_fma_reference_itself():
    rng = np.random.default_rng(2)
    a, b = rng.integers(-(2**24), 2**24, (2, 4000)).astype(np.float32)
    c = (rng.integers(-(2**24), 2**24, 4000) * 2.0 ** rng.integers(-20, 30, 4000)).astype(
        np.float32
    )
    a[:1000] = np.float32(2**12 + 1)  # products that end near a tie of the sum
    b[:1000] = rng.choice(np.float32([2**12 - 1, 2**12 + 1, 2**13, 3]), 1000)
    found = kernel_reference.fma(a, b, c)
    for x, y, z, result in zip(a, b, c, found, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        assert to_float32(exact) == result
