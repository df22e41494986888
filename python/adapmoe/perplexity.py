# SPDX-License-Identifier: Apache-2.0
"""How well a model predicts a text."""

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import NonFiniteError
from adapmoe.sequence import as_token_ids

if TYPE_CHECKING:
    from adapmoe.llm import LLM


_LARGEST_NLL = math.log(sys.float_info.max)


class Evaluation(TypedDict):
    """perplexity = exp(nll); nll in nats per predicted token; tokens: how many were predicted."""

    perplexity: float
    nll: float
    tokens: int


def token_nll(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> float:
    """Sum of -log softmax(logits)[target] in float64.

    Args:
        logits: float32 `[n, vocab_size]`.
        targets: int32 `[n]`, the token that really followed each position.

    Returns:
        Nats, summed over n.
    """
    total = 0.0
    for row, target in zip(logits, targets, strict=True):  # by row: a float64 copy of all is large
        scores = row.astype(np.float64)
        highest = scores.max()
        total += highest + math.log(np.exp(scores - highest).sum()) - scores[target]
    return float(total)


def evaluate(
    llm: "LLM",
    text: str,
    *,
    window: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure perplexity in windows that do not overlap and do not see each other.

    The encoded text (begin-of-sequence token first) is cut into windows of `window` tokens. Every
    token but the first of its window is predicted from those before it in the window. A last window
    of one token is dropped.

    Args:
        llm: the opened model.
        text: at least two tokens.
        window: tokens per window, from 2 to max_context.
        on_progress: called with (windows done, windows) after each window.

    Raises:
        ValueError: `window` out of range, or a text shorter than two tokens.
        ReadError: an expert could not be read.
        NonFiniteError: the model computed NaN or infinity, or the perplexity is larger than any
            float.
    """
    if not 2 <= window <= llm.max_context:
        raise ValueError(f"window must be from 2 to max_context {llm.max_context}, not {window}")
    ids = as_token_ids(llm.tokenizer.encode(text), llm.vocab_size)
    windows = [ids[at : at + window] for at in range(0, len(ids) - 1, window)]
    if not windows:
        raise ValueError("the text has fewer than two tokens: there is nothing to predict")
    total, tokens = 0.0, 0
    with llm.new_sequence() as sequence:
        for done, part in enumerate(windows, start=1):
            sequence.reset()
            logits = sequence.prefill(part, all_logits=True)
            total += token_nll(logits[:-1], part[1:])
            tokens += len(part) - 1
            if on_progress is not None:
                on_progress(done, len(windows))
    nll = total / tokens
    if nll > _LARGEST_NLL:
        raise NonFiniteError(
            f"the perplexity is infinite: each token costs {nll:.4g} nats; the model predicts "
            "nothing of this text"
        )
    return {"perplexity": math.exp(nll), "nll": nll, "tokens": tokens}
