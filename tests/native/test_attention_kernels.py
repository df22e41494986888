# SPDX-License-Identifier: Apache-2.0
"""G6 for attention: every table equals the scalar one, and a float64 softmax."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapmoe import _testing
from support.core import kernel_reference as reference

KERNELS = _testing.kernel_names()


def attend(kernels, dtype, q, k, v, first, last):
    scale = np.float32(1 / np.sqrt(q.shape[1]))
    if dtype == "f16":
        k, v = k.view(np.uint16), v.view(np.uint16)
    function = _testing.attend_f16 if dtype == "f16" else _testing.attend_f32
    return function(kernels, q, k, v, first, last, scale).reshape(q.shape)


def make_inputs(seed, dtype, heads, kv_heads, dim, positions, spread):
    """q of one KV head's group [heads, dim]; k and v of one KV head, [positions, dim] inside a
    cache of all KV heads."""
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((heads, dim), np.float32) * np.float32(spread)
    cache = rng.standard_normal((2, positions, kv_heads, dim), np.float32)
    cache = cache.astype(np.float16 if dtype == "f16" else np.float32)
    kv_head = int(rng.integers(kv_heads))
    return q, cache[0, :, kv_head], cache[1, :, kv_head]


def check(dtype, q, k, v, first, last):
    expected = attend("scalar", dtype, q, k, v, first, last)
    for kernels in KERNELS:
        found = attend(kernels, dtype, q, k, v, first, last)
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))
    keys, values = k[first : last + 1], v[first : last + 1]
    scale = 1 / np.sqrt(q.shape[1])
    exact = reference.attention(q, keys, values, scale)
    scores = np.abs(q.astype(np.float64) @ keys.T.astype(np.float64) * scale).max()
    # An error in a score is an equal relative error in its weight.
    tolerance = 1e-6 * (1 + scores) * np.abs(values).max()
    np.testing.assert_allclose(expected, exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@settings(max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1),
    heads=st.integers(1, 8),
    kv_heads=st.integers(1, 3),
    dim=st.integers(1, 8).map(lambda n: 16 * n),
    length=st.integers(1, 600),
    window=st.none() | st.integers(1, 300),
    spread=st.sampled_from([0.0, 1.0, 20.0, 1e3]),
)
def test_g6_attention(dtype, seed, heads, kv_heads, dim, length, window, spread):
    q, k, v = make_inputs(seed, dtype, heads, kv_heads, dim, length, spread)
    first = 0 if window is None else max(0, length - window)
    check(dtype, q, k, v, first, length - 1)


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 127), (0, 128), (127, 127), (127, 128), (128, 128), (128, 255), (1, 512)],
)
def test_g6_attention_at_block_boundaries(dtype, first, last):
    check(dtype, *make_inputs(last, dtype, 4, 2, 64, last + 1, 3.0), first, last)


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_positions_outside_the_window_are_not_read(dtype):
    q, k, v = make_inputs(1, dtype, 2, 1, 32, 300, 1.0)
    expected = attend("scalar", dtype, q, k, v, 100, 250)
    for array in (k, v):
        array[:100] = np.nan
        array[251:] = np.nan
    for kernels in KERNELS:
        found = attend(kernels, dtype, q, k, v, 100, 250)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_single_position_gives_its_value(kernels):
    q, k, v = make_inputs(2, "f32", 3, 1, 16, 40, 5.0)
    found = attend(kernels, "f32", q, k, v, 39, 39)
    np.testing.assert_array_equal(found, np.stack([v[39]] * 3))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("last", [9, 140, 599])
def test_equal_scores_give_the_mean(kernels, last):
    q, k, v = make_inputs(4, "f32", 1, 1, 32, last + 1, 0.0)
    found = attend(kernels, "f32", q, k, v, 0, last)
    np.testing.assert_allclose(found[0], v.astype(np.float64).mean(0), rtol=0, atol=2e-6)
