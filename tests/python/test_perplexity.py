# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe import NonFiniteError
from adapmoe.calibration.statistics import evaluate, token_nll

TEXT = "The first line.\nThe second line of the text, and so on. " * 4


def log_softmax(row):
    row = row.astype(np.longdouble)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


@given(st.integers(1, 6), st.integers(2, 50), st.integers(0, 2**32), st.sampled_from([1, 30]))
def test_nll_is_the_cross_entropy(n, vocab, seed, scale):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (n, vocab)).astype(np.float32)
    targets = rng.integers(0, vocab, n).astype(np.int32)
    expected = -sum(log_softmax(row)[t] for row, t in zip(logits, targets, strict=True))
    assert token_nll(logits, targets) == pytest.approx(float(expected), rel=1e-12, abs=1e-12)


@pytest.mark.torch
def test_nll_is_the_cross_entropy_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (9, 300)).astype(np.float32)
    targets = rng.integers(0, 300, 9).astype(np.int32)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.from_numpy(targets).long(), reduction="sum"
    )
    assert token_nll(logits, targets) == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("window", [2, 7, 32, 256])
def test_windows_do_not_see_each_other(open_llm, window):
    llm = open_llm()
    ids = llm.tokenizer.encode(TEXT)
    total, tokens = 0.0, 0
    with llm.new_sequence() as sequence:
        for at in range(0, len(ids), window):
            part = ids[at : at + window]
            sequence.reset()
            row = sequence.prefill(part[:1])
            for token in part[1:]:
                total -= float(log_softmax(row)[token])
                tokens += 1
                row = sequence.decode(token)
    result = evaluate(llm, TEXT, window=window)
    assert result["tokens"] == tokens
    assert result["nll"] == pytest.approx(total / tokens, rel=1e-10)
    assert result["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-9)
    assert llm.free_sequences == 1


def test_a_last_window_of_one_token_is_dropped(open_llm):
    llm = open_llm()
    length = len(llm.tokenizer.encode(TEXT))
    seen = []
    result = evaluate(llm, TEXT, window=length - 1, on_progress=lambda *p: seen.append(p))
    assert result["tokens"] == length - 2
    assert seen == [(1, 1)]


@pytest.mark.parametrize("window", [0, 1, 100])
def test_a_window_out_of_range_is_refused(open_llm, window):
    with pytest.raises(ValueError, match="from 2 to max_context 99"):
        evaluate(open_llm(max_context=99), TEXT, window=window)


@pytest.mark.parametrize("nats", [710.0, 1e30, math.inf])
def test_a_perplexity_beyond_all_floats_is_an_error(open_llm, monkeypatch, nats):
    monkeypatch.setattr(
        "adapmoe.calibration.statistics.token_nll", lambda _, targets: nats * len(targets)
    )
    with pytest.raises(NonFiniteError, match="perplexity is infinite"):
        evaluate(open_llm(), TEXT)


def test_a_text_without_a_second_token_is_refused(open_llm):
    with pytest.raises(ValueError, match="fewer than two tokens"):
        evaluate(open_llm(), "")
