# SPDX-License-Identifier: Apache-2.0
"""pack_matrix against an independent NumPy reader."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapmoe import _core
from support.packs.packed_reference import crc32c, unpack, unpack_padded

LIMITS = {"int4": (-8, 7), "int8": (-127, 127)}
FORMATS = [(d, g) for d in ("int4", "int8") for g in (32, 64, 128)] + [("f16", 16), ("f32", 16)]


@st.composite
def matrices(draw):
    rows = draw(st.integers(1, 40))
    cols = draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.standard_normal((rows, cols), np.float32)
    weights *= np.float32(10.0) ** draw(st.integers(-9, 3))
    shape = draw(st.sampled_from(["normal", "heavy", "sparse", "negative", "zero", "spread"]))
    if shape == "heavy":
        weights = np.sign(weights) * weights**2
    elif shape == "sparse":
        weights *= rng.random((rows, cols)) < 0.05
    elif shape == "negative":
        weights = -np.abs(weights)
    elif shape == "zero":
        weights *= 0
    elif shape == "spread":
        weights *= np.float32(10.0) ** rng.integers(-6, 1, (rows, 1)).astype(np.float32)
    return np.clip(weights, -65504, 65504)  # what every dtype holds


def amax_scaling(weights, dtype, group_size):
    """Weights after plain symmetric quantization: scale = amax / largest quant, in fp16."""
    lo, hi = LIMITS[dtype]
    rows, cols = weights.shape
    padded = np.zeros((rows, -(-cols // group_size) * group_size), np.float64)
    padded[:, :cols] = weights
    groups = padded.reshape(rows, -1, group_size)
    scale = np.abs(groups).max(2, keepdims=True).astype(np.float32) / np.float32(hi)
    scale = np.maximum(scale.astype(np.float16), np.float16(2.0**-24)).astype(np.float64)
    quants = np.clip(np.rint(groups / scale), lo, hi)
    return (quants * scale).reshape(rows, -1)[:, :cols]


@pytest.mark.parametrize(("dtype", "group_size"), FORMATS)
@settings(max_examples=60, deadline=None)
@given(weights=matrices())
def test_round_trip(dtype, group_size, weights):
    rows, cols = weights.shape
    packed, error, squares = _core.pack_matrix(weights, dtype, group_size, 1)
    assert packed.dtype == np.uint8
    assert packed.size == _core.packed_bytes(rows, cols, dtype, group_size)
    values, scales, quants = unpack_padded(packed, rows, cols, dtype, group_size)

    assert not values[rows:].any()
    assert not values[:, cols:].any()
    wide = weights.astype(np.float64)
    measured = np.sum((unpack(packed, rows, cols, dtype, group_size) - wide) ** 2)
    assert error == pytest.approx(measured, rel=1e-6, abs=1e-30)
    assert squares == pytest.approx(np.sum(wide**2), rel=1e-12)
    if dtype == "f32":
        np.testing.assert_array_equal(values[:rows, :cols], weights)
        assert error == 0
    elif dtype == "f16":
        np.testing.assert_array_equal(values[:rows, :cols], weights.astype(np.float16))
    else:
        lo, hi = LIMITS[dtype]
        assert lo <= quants.min()
        assert quants.max() <= hi
        assert (scales > 0).all()
        assert np.isfinite(scales).all()
        silent = ~quants.reshape(*scales.shape, group_size).any(2)
        zero_groups = np.zeros(scales.shape, bool)
        zero_groups[rows:] = True
        assert (scales[silent & zero_groups] == 1).all()
        plain = np.sum((amax_scaling(weights, dtype, group_size) - wide) ** 2)
        assert error <= plain * (1 + 1e-5)


@pytest.mark.parametrize(("dtype", "group_size"), FORMATS)
def test_bytes_do_not_depend_on_threads(dtype, group_size):
    weights = np.random.default_rng(7).standard_normal((333, 257), np.float32)
    one = _core.pack_matrix(weights, dtype, group_size, 1)
    for threads in (0, 2, 3, 64):
        other = _core.pack_matrix(weights, dtype, group_size, threads)
        np.testing.assert_array_equal(other[0], one[0])
        assert other[1:] == one[1:]


def test_search_beats_plain_scaling_on_gaussian_weights():
    weights = np.random.default_rng(1).standard_normal((64, 512), np.float32)
    for group_size, gain in ((32, 0.90), (64, 0.90), (128, 0.88)):
        _, error, _ = _core.pack_matrix(weights, "int4", group_size)
        plain = np.sum((amax_scaling(weights, "int4", group_size) - weights) ** 2)
        assert np.sqrt(error / plain) < gain


def test_zero_group_has_scale_one():
    weights = np.zeros((3, 64), np.float32)
    weights[0, 40] = 0.5
    packed, _, _ = _core.pack_matrix(weights, "int8", 32)
    _, scales, _ = unpack_padded(packed, 3, 64, "int8", 32)
    assert scales[0, 0] == scales[1, 1] == scales[15, 0] == 1
    assert scales[0, 1] == pytest.approx(0.5 / 127, rel=1e-3)


@pytest.mark.parametrize(("dtype", "group_size"), FORMATS)
@pytest.mark.parametrize(("source", "kind"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_16_bit_sources_pack_as_their_float32_values(dtype, group_size, source, kind):
    half = np.random.default_rng(3).standard_normal((37, 150), np.float32).astype(kind)
    half[0, 0] = 6e-8  # a subnormal f16
    bits, wide = half.view(np.uint16), half.astype(np.float32)
    packed = _core.pack_matrix(bits[:, 8:140], dtype, group_size, 1, source)
    wanted = _core.pack_matrix(wide[:, 8:140], dtype, group_size, 1)
    np.testing.assert_array_equal(packed[0], wanted[0])
    assert packed[1:] == wanted[1:]
    with pytest.raises(ValueError, match="does not fit"):
        _core.pack_matrix(wide, dtype, group_size, 1, source)
    with pytest.raises(ValueError, match="does not fit"):
        _core.pack_matrix(bits, dtype, group_size)


@pytest.mark.parametrize(("dtype", "group_size"), FORMATS)
@settings(max_examples=30, deadline=None)
@given(weights=matrices(), data=st.data())
def test_packing_error_equals_the_numpy_reader(dtype, group_size, weights, data):
    rows, cols = weights.shape
    packed, _, _ = _core.pack_matrix(weights, dtype, group_size, 1)
    part = np.zeros((data.draw(st.integers(1, rows)), data.draw(st.integers(1, cols))), np.float32)
    part += np.random.default_rng(0).standard_normal(part.shape, np.float32)
    error, squares = _core.packing_error(packed, rows, cols, dtype, group_size, part)
    wide = part.astype(np.float64)
    stored = unpack(packed, rows, cols, dtype, group_size)[: part.shape[0], : part.shape[1]]
    assert error == pytest.approx(np.sum((stored - wide) ** 2), rel=1e-9)
    assert squares == pytest.approx(np.sum(wide**2), rel=1e-9)


def test_packing_error_refuses_other_sizes():
    weights = np.zeros((17, 16), np.float32)
    with pytest.raises(ValueError, match="10 bytes, expected 1024"):
        _core.packing_error(np.zeros(10, np.uint8), 16, 16, "f32", 16, weights[:16])
    with pytest.raises(ValueError, match=r"\[17, 16\] is more than \[16, 16\]"):
        _core.packing_error(np.zeros(1024, np.uint8), 16, 16, "f32", 16, weights)


def test_column_slice_needs_no_copy():
    whole = np.random.default_rng(2).standard_normal((50, 200), np.float32)
    part = whole[:, 64:160]
    packed, _, _ = _core.pack_matrix(part, "int4", 32)
    np.testing.assert_array_equal(packed, _core.pack_matrix(part.copy(), "int4", 32)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("dtype", "group_size"), FORMATS)
def test_first_bad_weight_is_named(dtype, group_size, value):
    weights = np.ones((70, 100), np.float32)
    weights[33, 44] = weights[65, 1] = value
    with pytest.raises(ValueError, match=r"row 33, column 44 .* must be finite"):
        _core.pack_matrix(weights, dtype, group_size, 2)


@pytest.mark.parametrize(
    ("dtype", "group_size", "limit"),
    [("int4", 32, 7 * 65504.0), ("int8", 32, 127 * 65504.0), ("f16", 16, 65504.0)],
)
def test_weight_beyond_the_dtype_is_refused(dtype, group_size, limit):
    weights = np.full((1, 1), limit, np.float32)
    packed, _, _ = _core.pack_matrix(weights, dtype, group_size)
    assert unpack(packed, 1, 1, dtype, group_size)[0, 0] == limit
    weights *= np.float32(1.001)
    with pytest.raises(ValueError, match="holds at most"):
        _core.pack_matrix(weights, dtype, group_size)


@pytest.mark.parametrize(
    ("shape", "dtype", "group_size"),
    [
        ((0, 4), "int4", 32),
        ((4, 0), "int4", 32),
        ((4, 4), "int4", 16),
        ((4, 4), "f32", 32),
        ((4, 4), "int3", 32),
    ],
)
def test_impossible_shapes_are_refused(shape, dtype, group_size):
    with pytest.raises(ValueError, match=r"group_size|rows and columns|unknown dtype"):
        _core.pack_matrix(np.zeros(shape, np.float32), dtype, group_size)
    with pytest.raises(ValueError, match=r"group_size|rows and columns|unknown dtype"):
        _core.packed_bytes(*shape, dtype, group_size)


def test_transposed_weights_are_refused():
    with pytest.raises(ValueError, match="contiguous"):
        _core.pack_matrix(np.zeros((8, 4), np.float32).T, "f32", 16)


@given(data=st.binary(max_size=5000))
def test_crc32c(data):
    assert _core.crc32c(np.frombuffer(data, np.uint8)) == crc32c(data)


def test_crc32c_check_value():
    assert _core.crc32c(np.frombuffer(b"123456789", np.uint8)) == 0xE3069283
