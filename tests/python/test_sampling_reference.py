# SPDX-License-Identifier: Apache-2.0
"""The filters against the warpers of transformers."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adapmoe.sampling import keep_top_k, keep_top_p, probabilities, warp
from adapmoe.sampling_params import SamplingParams

torch = pytest.importorskip("torch")
warpers = pytest.importorskip("transformers.generation.logits_process")

pytestmark = pytest.mark.torch

LOGITS = hnp.arrays(
    np.float64,
    st.integers(1, 60),
    # Quarters collide often, so ties are tried too.
    elements=st.integers(-80, 80).map(lambda n: n / 4) | st.floats(-30, 30),
)


def run_warper(warper, scores):
    return warper(None, torch.from_numpy(scores[None].copy()))[0].numpy()


@given(LOGITS, st.integers(1, 80))
def test_top_k_keeps_what_transformers_keeps(scores, k):
    expected = run_warper(warpers.TopKLogitsWarper(k), scores)
    assert np.array_equal(keep_top_k(scores, k), expected)


@given(LOGITS, st.floats(0.01, 1, exclude_max=True))
def test_top_p_keeps_what_transformers_keeps(scores, top_p):
    cumulative = np.cumsum(np.sort(probabilities(scores)))
    assume(np.abs(cumulative - (1 - top_p)).min() > 1e-9)  # rounding decides there
    ordered = np.sort(scores)
    assume(np.all(np.diff(ordered) > 0))  # among equals torch's order is not defined
    expected = run_warper(warpers.TopPLogitsWarper(top_p), scores)
    assert np.array_equal(keep_top_p(scores, top_p), expected)


@given(LOGITS, st.floats(0.01, 1, exclude_max=True))
def test_top_p_keeps_as_many_as_transformers_among_equals(scores, top_p):
    cumulative = np.cumsum(np.sort(probabilities(scores)))
    assume(np.abs(cumulative - (1 - top_p)).min() > 1e-9)
    expected = run_warper(warpers.TopPLogitsWarper(top_p), scores)
    assert np.array_equal(np.sort(keep_top_p(scores, top_p)), np.sort(expected))


@given(
    LOGITS, st.sampled_from([0.3, 0.8, 1.0, 2.5]), st.integers(1, 80), st.sampled_from([0.37, 0.9])
)
def test_all_together_give_the_probabilities_of_transformers(scores, temperature, top_k, top_p):
    expected = run_warper(warpers.TemperatureLogitsWarper(temperature), scores)
    expected = run_warper(warpers.TopKLogitsWarper(top_k), expected)
    cumulative = np.cumsum(np.sort(probabilities(expected)))
    assume(np.abs(cumulative - (1 - top_p)).min() > 1e-9)
    expected = run_warper(warpers.TopPLogitsWarper(top_p), expected)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    found = probabilities(warp(scores, params))
    expected = torch.from_numpy(expected).softmax(-1).numpy()
    np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-12, atol=1e-300)
