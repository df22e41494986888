# SPDX-License-Identifier: Apache-2.0
"""G6 for products with packed weights: every table equals the scalar one and NumPy, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapmoe import _core, _testing
from support.core import kernel_reference as reference
from support.packs.packed_reference import block_bytes, unpack_padded

KERNELS = _testing.kernel_names()
SEEDS = st.integers(0, 2**32 - 1)
PADDING = 16  # values on either side of the output that must not be written


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


def extreme_floats(rng, shape, kind):
    x = rng.standard_normal(shape, np.float32)
    if kind == "zero":
        return np.zeros(shape, np.float32)
    if kind == "huge":
        return x * np.float32(1e37)
    if kind == "subnormal":
        return x * np.float32(1e-40)
    if kind == "spread":
        return x * np.float32(10) ** rng.integers(-38, 37, shape).astype(np.float32)
    if kind == "ties":  # amax 127 makes the scale 1, so that halves are ties
        x = rng.integers(-127, 127, shape).astype(np.float32) + np.float32(0.5)
        x.reshape(-1)[::16] = 127
    return x


KINDS = st.sampled_from(["normal", "zero", "huge", "subnormal", "spread", "ties"])


@given(seed=SEEDS, kind=KINDS, group=st.sampled_from([16, 32, 64, 128]), groups=st.integers(1, 6))
def test_g6_quantize(seed, kind, group, groups):
    rng = np.random.default_rng(seed)
    x = extreme_floats(rng, group * groups, kind)
    expected = reference.quantize(x, group)
    for kernels in KERNELS:
        q, scale, total = _testing.quantize(kernels, x, group)
        np.testing.assert_array_equal(q, expected[0])
        assert_same_bits(scale, expected[1])
        np.testing.assert_array_equal(total, expected[2])


def test_a_group_at_the_edge_of_zero_has_scale_zero():
    x = np.zeros(64, np.float32)
    x[5], x[40] = np.float32(1e-30), np.nextafter(np.float32(1e-30), np.float32(1))
    for kernels in KERNELS:
        q, scale, _ = _testing.quantize(kernels, x, 32)
        assert (scale[0], q[5]) == (0, 0)
        assert scale[1] > 0
        assert q[40] == 127


def random_block(rng, dtype, cols, group, quants):
    """Bytes of one block of 16 rows; scales from the smallest to the largest half."""
    groups = cols // group
    block = np.zeros(block_bytes(cols, dtype, group), np.uint8)
    scales = rng.integers(1, 0x7C00, 16 * groups, np.uint16)
    block[: scales.nbytes] = scales.view(np.uint8)
    words = block[-cols * (8 if dtype == "int4" else 16) :]
    if dtype == "int4":
        low, high = {"full": (0, 256), "least": (0, 1), "most": (255, 256)}[quants]
        words[:] = rng.integers(low, high, words.size)
    else:
        low, high = {"full": (-127, 128), "least": (-127, -126), "most": (127, 128)}[quants]
        words[:] = rng.integers(low, high, words.size, np.int8).view(np.uint8)
    return block


def random_rows(rng, count, cols, group, quants):
    """(q, scale, sum) of `count` activation rows, cut out of wider arrays."""
    low, high = {"full": (-127, 128), "least": (-127, -126), "most": (127, 128)}[quants]
    q = rng.integers(low, high, (count, cols + 2 * group), np.int8)
    scale = np.abs(extreme_floats(rng, (count, cols // group + 2), "spread")) * np.float32(1e-12)
    total = q.reshape(count, -1, group).sum(2, dtype=np.int32)
    return q[:, group:-group], scale[:, 1:-1], total[:, 1:-1]


def random_index(rng, rows, indexed):
    """(activation rows to make, index of the row that each output row uses or None)."""
    if not indexed:
        return rows, None
    return rows + 3, rng.integers(0, rows + 3, rows, np.int32)


def run(function, kernels, dtype, block, act, index, start, accumulate):
    """The 16 columns of y, written inside a wider array whose rest must stay as it was."""
    wide = np.full((start.shape[0], 16 + 2 * PADDING), np.float32(7.5))
    y = wide[:, PADDING:-PADDING]
    y[:] = start if accumulate else np.float32(np.nan)
    function(kernels, dtype, block, *act, index, y, accumulate)
    assert (wide[:, :PADDING] == 7.5).all()
    assert (wide[:, -PADDING:] == 7.5).all()
    return y.copy()


QUANTS = st.sampled_from(["full", "full", "least", "most"])


@pytest.mark.parametrize("dtype", ["int4", "int8"])
@settings(max_examples=250)
@given(
    seed=SEEDS,
    group=st.sampled_from([32, 64, 128]),
    groups=st.integers(1, 5),
    rows=st.integers(1, 9),
    indexed=st.booleans(),
    accumulate=st.booleans(),
    weight_quants=QUANTS,
    act_quants=QUANTS,
)
def test_g6_block_quantized(
    dtype, seed, group, groups, rows, indexed, accumulate, weight_quants, act_quants
):
    rng = np.random.default_rng(seed)
    cols = group * groups
    block = random_block(rng, dtype, cols, group, weight_quants)
    count, index = random_index(rng, rows, indexed)
    act = random_rows(rng, count, cols, group, act_quants)
    start = rng.standard_normal((rows, 16), np.float32) if accumulate else np.zeros((rows, 16))
    start = start.astype(np.float32)

    _, scales, quants = unpack_padded(block, 16, cols, dtype, group)
    used = np.arange(rows) if index is None else index
    expected = reference.block_quantized(quants, scales, act[0][used], act[1][used], start)
    assert np.isfinite(expected).all()
    for kernels in KERNELS:
        found = run(_testing.block_quantized, kernels, dtype, block, act, index, start, accumulate)
        assert_same_bits(found, expected)


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@settings(max_examples=150)
@given(
    seed=SEEDS,
    cols=st.integers(1, 6).map(lambda n: 16 * n),
    rows=st.integers(1, 9),
    indexed=st.booleans(),
    accumulate=st.booleans(),
    kind=st.sampled_from(["normal", "zero", "subnormal", "spread"]),
)
def test_g6_block_float(dtype, seed, cols, rows, indexed, accumulate, kind):
    rng = np.random.default_rng(seed)
    if dtype == "f16":  # every finite half
        weights = rng.integers(0, 0x7C00, (cols, 16)) | rng.integers(0, 2, (cols, 16)) << 15
        weights = weights.astype(np.uint16).view(np.float16)
    else:
        weights = extreme_floats(rng, (cols, 16), kind) * np.float32(1e-20)
    block = weights.reshape(-1).view(np.uint8)
    count, index = random_index(rng, rows, indexed)
    x = (extreme_floats(rng, (count, cols + 32), kind) * np.float32(1e-20))[:, 16:-16]
    start = rng.standard_normal((rows, 16), np.float32) * np.float32(accumulate)

    used = np.arange(rows) if index is None else index
    expected = reference.block_float(weights.T.astype(np.float32), x[used], start)
    assert np.isfinite(expected).all()
    for kernels in KERNELS:
        found = run(_testing.block_float, kernels, dtype, block, (x,), index, start, accumulate)
        assert_same_bits(found, expected)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("int4", 0.12), ("int8", 0.012)])
def test_a_packed_product_is_close_to_the_float_product(kernels, dtype, tolerance):
    rng = np.random.default_rng(11)
    weights = rng.standard_normal((16, 512), np.float32)
    x = rng.standard_normal((5, 512), np.float32)
    block, _, _ = _core.pack_matrix(weights, dtype, 64, 1)
    quantized = [_testing.quantize(kernels, row, 64) for row in x]
    act = [np.stack(part) for part in zip(*quantized, strict=True)]
    y = np.zeros((5, 16), np.float32)
    _testing.block_quantized(kernels, dtype, block, *act, None, y, False)
    exact = x.astype(np.float64) @ weights.T
    assert np.linalg.norm(y - exact) / np.linalg.norm(exact) < tolerance
