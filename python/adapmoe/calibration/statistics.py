# SPDX-License-Identifier: Apache-2.0
"""Log-softmax, perplexity, bootstrap, rank correlation and routing statistics."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from adapmoe import checks
from adapmoe.calibration.gate_rule import expert_shares, select_experts
from adapmoe.calibration.lookahead import Recorded
from adapmoe.errors import NonFiniteError
from adapmoe.generation.sampling import log_softmax
from adapmoe.generation.sequence import as_token_ids
from adapmoe.pack.calibration import Routing
from adapmoe.pack.manifest import Router

if TYPE_CHECKING:
    from adapmoe.llm import LLM


F64 = NDArray[np.float64]


def divergence(full: F64, other: F64) -> F64:
    """KL(full || other) of each row, in nats.

    Args:
        full: log-probabilities `[n, vocab_size]`.
        other: the same shape.

    Returns:
        float64 `[n]`, not negative but for rounding.
    """
    kl: F64 = (np.exp(full) * (full - other)).sum(axis=-1)
    return kl


def next_token_nll(logits: NDArray[np.float32], window: NDArray[np.int32]) -> F64:
    """Nats of each token of a window but the first, from the logits before it.

    Args:
        logits: float32 `[n, vocab_size]`.
        window: int32 `[n]`.

    Returns:
        float64 `[n - 1]`.
    """
    scores = log_softmax(logits[:-1])
    nll: F64 = -scores[np.arange(len(window) - 1), window[1:]]
    return nll


_RESAMPLES = 2000
_CONFIDENCE = 0.95
_BLOCK = 64  # tokens; what one token costs hardly depends on another so far away


def upper_bound(increase: NDArray[np.float64]) -> float:
    """One-sided 95 % bound of the mean of per-token increases, by resampling blocks of tokens.

    Args:
        increase: float64 `[windows, n]`, nats.

    Returns:
        Nats per token. The same input gives the same bound.
    """
    blocks = max(increase.shape[1] // _BLOCK, 1)
    means = np.concatenate([part.mean(axis=1) for part in np.array_split(increase, blocks, axis=1)])
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(means), (_RESAMPLES, len(means)))
    return float(np.quantile(means[drawn].mean(axis=1), _CONFIDENCE))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """How well the order of `a` agrees with that of `b`: 1 the same, -1 reversed.

    Ties share their mean rank. nan where one of them is constant.

    Raises:
        ValueError: different lengths, or fewer than two values.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"expected two lists of the same length >= 2, not {len(a)} and {len(b)}")
    x, y = (ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b)))
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm else float("nan")


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    below = (array[None, :] < array[:, None]).sum(axis=1)
    equal = (array[None, :] == array[:, None]).sum(axis=1)
    ranks: NDArray[np.float64] = below + (equal + 1) / 2
    return ranks


_TOP1_SHARES = (0.6, 0.7, 0.8, 0.9)


def routing_statistics(recorded: list[Recorded], router: Router) -> Routing:
    """Which experts the windows need, and how clearly."""
    top_k = router.top_k
    logits = np.stack([r.router_logits for r in recorded], axis=1)  # [layers, windows, n, experts]
    chosen = select_experts(logits, top_k)
    experts = np.arange(logits.shape[-1])
    used = (chosen[..., None] == experts).any(axis=-2)  # [layers, windows, n, experts]
    strongest = expert_shares(logits, router)[..., 0]
    overlap = (used[:, :, 1:] & used[:, :, :-1]).sum(axis=-1) / top_k
    return Routing(
        expert_frequency=used.mean(axis=(1, 2)).tolist(),
        top1_share_above={
            str(share): (strongest > share).mean(axis=(1, 2)).tolist() for share in _TOP1_SHARES
        },
        consecutive_overlap=overlap.mean(axis=(1, 2)).tolist(),
    )


_WINDOW_TOKENS = 256
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
        total -= log_softmax(row)[target]
    return float(total)


def evaluate(
    llm: "LLM",
    text: str,
    *,
    window: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure perplexity in windows that do not overlap and do not see each other.

    The encoded text (begin-of-sequence token first) is cut into windows of `window` tokens. Every
    token but the first of its window is predicted from those before it in the window. A last window
    of one token is dropped.

    Args:
        llm: the opened model.
        text: at least two tokens.
        window: tokens per window, from 2 to max_context; None: 256, or max_context if less.
        on_progress: called with (windows done, windows) after each window.

    Raises:
        TypeError: a text that is none, or a window that is not an integer.
        ValueError: `window` out of range, or a text shorter than two tokens.
        ReadError: an expert could not be read.
        NonFiniteError: the model computed NaN or infinity, or the perplexity is larger than any
            float.
    """
    if window is None:
        window = min(_WINDOW_TOKENS, llm.max_context)
    window = checks.integer("window", window)
    if not 2 <= window <= llm.max_context:
        raise ValueError(f"window must be from 2 to max_context {llm.max_context}, not {window}")
    ids = as_token_ids(llm.tokenizer.encode(checks.text("text", text)), llm.vocab_size, "text")
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
