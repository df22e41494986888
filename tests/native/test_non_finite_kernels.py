# SPDX-License-Identifier: Apache-2.0
"""NaN and infinity stay visible: no kernel turns them into numbers again."""

import numpy as np
import pytest

from adapmoe import _testing

KERNELS = _testing.kernel_names()
BAD = [np.nan, -np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("at", [0, 5, 16, 31])
def test_quantized_activations_have_no_finite_scale(kernels, bad, at):
    x = np.linspace(-3, 3, 96, dtype=np.float32)
    _, scales, _ = _testing.quantize(kernels, x, 32)
    x[32 + at] = bad
    _, found, _ = _testing.quantize(kernels, x, 32)
    assert np.isnan(found[1])
    assert found[[0, 2]].tolist() == scales[[0, 2]].tolist()  # the other groups are as they were


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["keys", "values"])
@pytest.mark.parametrize("position", [0, 7, 130, 199])
def test_attention_to_a_bad_position_is_not_finite(kernels, dtype, bad, where, position):
    rng = np.random.default_rng(position)
    q = rng.standard_normal((2, 32), np.float32)
    keys, values = rng.standard_normal((2, 200, 32), np.float32).astype(
        np.float16 if dtype == "f16" else np.float32
    )
    (keys if where == "keys" else values)[position, 3] = bad
    if dtype == "f16":
        keys, values = keys.view(np.uint16), values.view(np.uint16)
    attend = getattr(_testing, f"attend_{dtype}")
    found = attend(kernels, q, keys, values, 0, 199, 0.1).reshape(q.shape)
    assert not np.isfinite(found).all(axis=1).any()
