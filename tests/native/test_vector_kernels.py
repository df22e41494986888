# SPDX-License-Identifier: Apache-2.0
"""G6 for RMSNorm and SwiGLU: every table equals the scalar one, and NumPy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adapmoe import _testing
from support.core import kernel_reference as reference

KERNELS = _testing.kernel_names()
SEEDS = st.integers(0, 2**32 - 1)


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


@given(
    seed=SEEDS,
    n=st.integers(1, 300),
    magnitude=st.sampled_from([0.0, 1e-42, 1e-20, 1.0, 1e15]),
    eps=st.sampled_from([1e-5, 1e-6, 1e-12]),
)
def test_g6_rms_norm(seed, n, magnitude, eps):
    rng = np.random.default_rng(seed)
    x, weight = np.zeros((2, -(-n // 16) * 16), np.float32)
    x[:n] = rng.standard_normal(n, np.float32) * np.float32(magnitude)
    weight[:n] = rng.standard_normal(n, np.float32)
    expected = reference.rms_norm(x, weight, n, eps)
    for kernels in KERNELS:
        assert_same_bits(_testing.rms_norm(kernels, x, weight, n, eps), expected)
    wide = x.astype(np.float64)
    exact = wide / np.sqrt(np.sum(wide**2) / n + eps) * weight
    np.testing.assert_allclose(expected, exact, rtol=3e-6, atol=1e-44)


@given(seed=SEEDS, magnitude=st.sampled_from([0.0, 1e-42, 1.0, 30.0, 1e6, 1e37]))
def test_g6_swiglu(seed, magnitude):
    rng = np.random.default_rng(seed)
    gate = rng.standard_normal(160, np.float32) * np.float32(magnitude)
    up = rng.standard_normal(160, np.float32)
    expected = _testing.swiglu("scalar", gate, up)
    for kernels in KERNELS:
        assert_same_bits(_testing.swiglu(kernels, gate, up), expected)
    wide = gate.astype(np.float64)
    with np.errstate(over="ignore"):
        exact = wide / (1 + np.exp(-wide)) * up
    # Below -87 the exponential is clamped: what is left is nearly nothing instead of nothing.
    nearly_nothing = 1e-36 * max(magnitude, 1.0)
    np.testing.assert_allclose(expected, exact, rtol=1e-6, atol=nearly_nothing)
