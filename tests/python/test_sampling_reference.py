# SPDX-License-Identifier: Apache-2.0
"""Sampling against the logits processors and warpers of transformers."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adapmoe.generation.params import SamplingParams
from adapmoe.generation.sampling import (
    Sampler,
    add_bias,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
    probabilities,
    token_logprobs,
    warp,
)

torch = pytest.importorskip("torch")
warpers = pytest.importorskip("transformers.generation.logits_process")

pytestmark = pytest.mark.torch

LOGITS = hnp.arrays(
    np.float64,
    st.integers(1, 60),
    # Quarters collide often, so ties are tried too.
    elements=st.integers(-80, 80).map(lambda n: n / 4) | st.floats(-30, 30),
)


TOKENS = st.lists(st.integers(0, 59), max_size=30)


def run_warper(warper, scores, token_ids=()):
    ids = torch.tensor([list(token_ids)], dtype=torch.int64)
    return warper(ids, torch.from_numpy(scores[None].copy()))[0].numpy()


def away_from_the_border(scores, top_p):
    """Rounding decides which token is the last where probabilities sum up to top_p exactly."""
    cumulative = np.cumsum(np.sort(probabilities(scores)))
    return np.abs(cumulative - (1 - top_p)).min() > 1e-9


@given(LOGITS, st.integers(1, 80))
def test_top_k_keeps_what_transformers_keeps(scores, k):
    expected = run_warper(warpers.TopKLogitsWarper(k), scores)
    assert np.array_equal(keep_top_k(scores, k), expected)


@given(LOGITS, st.floats(0.01, 1, exclude_max=True))
def test_top_p_keeps_what_transformers_keeps(scores, top_p):
    assume(away_from_the_border(scores, top_p))
    ordered = np.sort(scores)
    assume(np.all(np.diff(ordered) > 0))  # among equals torch's order is not defined
    expected = run_warper(warpers.TopPLogitsWarper(top_p), scores)
    assert np.array_equal(keep_top_p(scores, top_p), expected)


@given(LOGITS, st.floats(0.01, 1, exclude_max=True))
def test_top_p_keeps_as_many_as_transformers_among_equals(scores, top_p):
    assume(away_from_the_border(scores, top_p))
    expected = run_warper(warpers.TopPLogitsWarper(top_p), scores)
    assert np.array_equal(np.sort(keep_top_p(scores, top_p)), np.sort(expected))


@given(LOGITS, st.floats(0, 1))
def test_min_p_keeps_what_transformers_keeps(scores, min_p):
    probs = probabilities(scores)
    assume(np.abs(probs / probs.max() - min_p).min() > 1e-9 or min_p == 1)
    expected = run_warper(warpers.MinPLogitsWarper(min_p), scores)
    assert np.array_equal(keep_min_p(scores, min_p), expected)


@given(LOGITS, TOKENS, st.floats(0.1, 10))
def test_repetition_is_penalised_as_in_transformers(scores, token_ids, penalty):
    seen = [token for token in token_ids if token < scores.size]
    assume(seen)
    expected = run_warper(warpers.RepetitionPenaltyLogitsProcessor(penalty), scores, seen)
    assert np.array_equal(penalise_repetition(scores, np.unique(seen), penalty), expected)


@given(LOGITS, st.dictionaries(st.integers(0, 59), st.floats(-100, 100), min_size=1))
def test_bias_is_the_sequence_bias_of_transformers(scores, bias):
    known = {token: value for token, value in bias.items() if token < scores.size}
    assume(known)
    processor = warpers.SequenceBiasLogitsProcessor({(t,): v for t, v in known.items()})
    # transformers keeps its biases in float32
    rounded = {token: float(np.float32(value)) for token, value in known.items()}
    np.testing.assert_allclose(
        add_bias(scores, rounded), run_warper(processor, scores, [0]), rtol=1e-15
    )


def reference_pipeline(scores, token_ids, params):
    """In the order in which transformers' generate puts them together."""
    pipeline = []
    if params.repetition_penalty != 1:
        pipeline.append(warpers.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    pipeline.append(warpers.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        pipeline.append(warpers.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        pipeline.append(warpers.TopPLogitsWarper(params.top_p))
    pipeline.append(warpers.MinPLogitsWarper(params.min_p))
    for warper in pipeline:
        if isinstance(warper, warpers.TopPLogitsWarper):
            assume(away_from_the_border(scores, params.top_p))
        if isinstance(warper, warpers.MinPLogitsWarper):
            probs = probabilities(scores)
            assume(np.abs(probs / probs.max() - params.min_p).min() > 1e-9)
        scores = run_warper(warper, scores, token_ids)
    return scores


@given(
    LOGITS,
    TOKENS,
    st.sampled_from([0.3, 0.8, 1.0, 2.5]),
    st.integers(0, 80),
    st.sampled_from([0.37, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05, 0.4]),
    st.sampled_from([0.8, 1.0, 1.3]),
)
def test_all_together_give_the_probabilities_of_transformers(
    scores, token_ids, temperature, top_k, top_p, min_p, repetition_penalty
):
    scores = scores.astype(np.float32).astype(np.float64)  # as logits arrive
    prompt = [token for token in token_ids if token < scores.size] or [0]
    params = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
    )
    expected = reference_pipeline(scores, prompt, params)
    sampler = Sampler(np.array(prompt, np.int32), params)
    found = probabilities(warp(sampler._adjust(scores), params))
    expected = torch.from_numpy(expected).softmax(-1).numpy()
    # Sorted, because among equals torch's order is not defined.
    np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-11, atol=1e-300)


def test_generation_config_builds_the_same_order():
    """What `reference_pipeline` assumes, from transformers itself."""
    from transformers import GenerationConfig
    from transformers.generation.utils import GenerationMixin

    class Model(GenerationMixin):
        config = type("Config", (), {"is_encoder_decoder": False})()

    config = GenerationConfig(
        do_sample=True, repetition_penalty=1.3, temperature=0.7, top_k=9, top_p=0.9, min_p=0.01
    )
    built = Model()._get_logits_processor(config, input_ids_seq_length=3)
    assert [type(processor).__name__ for processor in built] == [
        "RepetitionPenaltyLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
    ]


@given(LOGITS, st.data())
def test_logprobs_are_log_softmax(scores, data):
    logits = scores.astype(np.float32)
    token_id = data.draw(st.integers(0, logits.size - 1))
    expected = torch.from_numpy(logits).double().log_softmax(-1)
    found = token_logprobs(logits, token_id, 5)
    np.testing.assert_allclose(found.logprob, expected[token_id].item(), rtol=1e-9, atol=1e-12)
    values = [value for _, value in found.top]
    np.testing.assert_allclose(values, expected.topk(len(values)).values, rtol=1e-9, atol=1e-12)
