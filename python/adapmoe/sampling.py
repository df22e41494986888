# SPDX-License-Identifier: Apache-2.0
"""From scores to a token id: a pipeline of pure functions on float64 `[vocab_size]` scores.

A score of -inf means "never". The filters keep exactly the tokens that transformers' warpers keep.
Any finite scores are valid: what overflows goes to its limit, without a warning.
"""

import numpy as np
from numpy.typing import NDArray

from adapmoe.sampling_params import SamplingParams

Scores = NDArray[np.float64]

# Overflow and underflow are what the limits are made of. As a decorator, so that it holds for one
# function and never for what a caller's logits processor does.
limits = np.errstate(over="ignore", under="ignore")


def make_rng(seed: int | None) -> np.random.Generator:
    """One generator per sequence, so that what a batch contains does not change what is drawn."""
    return np.random.Generator(np.random.PCG64(seed))


def greedy(scores: Scores) -> int:
    """Return the index of the highest score, the lowest index where several are equal."""
    return int(np.argmax(scores))


@limits
def apply_temperature(scores: Scores, temperature: float) -> Scores:
    """Divide by `temperature` > 0.

    Where the highest score would overflow, the distance from it is divided instead: that has the
    same probabilities, and leaves 0 for the highest and -inf for what is too far below.
    """
    scaled = np.asarray(scores / temperature, dtype=np.float64)
    if np.isfinite(scaled.max()):
        return scaled
    return np.asarray((scores - scores.max()) / temperature, dtype=np.float64)


def keep_top_k(scores: Scores, top_k: int) -> Scores:
    """Keep what is not below the k-th highest; ties at the border all stay. 0: keep all."""
    if top_k == 0 or top_k >= scores.size:
        return scores
    border = np.partition(scores, scores.size - top_k)[scores.size - top_k]
    return np.where(scores < border, -np.inf, scores)


def keep_top_p(scores: Scores, top_p: float) -> Scores:
    """Keep the fewest tokens whose probabilities reach `top_p`, at least one. 1: keep all."""
    if top_p == 1:
        return scores
    ascending = np.argsort(scores, kind="stable")
    # Summed from the least likely upwards: what is dropped are the tails that fit into 1 - top_p.
    tail = np.cumsum(probabilities(scores)[ascending])
    dropped = ascending[:-1][tail[:-1] <= 1 - top_p]
    kept: Scores = scores.copy()
    kept[dropped] = -np.inf
    return kept


def keep_min_p(scores: Scores, min_p: float) -> Scores:
    """Keep what is at least `min_p` times as likely as the most likely token. 0: keep all."""
    if min_p == 0:
        return scores
    probs = probabilities(scores)
    return np.where(probs < min_p * probs.max(), -np.inf, scores)


@limits
def probabilities(scores: Scores) -> Scores:
    """Softmax. Needs at least one finite score."""
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


@limits
def log_softmax(logits: NDArray[np.floating]) -> Scores:
    """Natural logarithm of softmax, in float64, of one row `[vocab_size]` or of several."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores


@limits
def draw(probs: Scores, rng: np.random.Generator) -> int:
    """Draw one index by inverting the cumulative distribution; consumes one number of `rng`."""
    cumulative = np.cumsum(probs)
    index = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    # Rounding may put the point on the upper end, past the last token that has any probability.
    return min(index, int(np.flatnonzero(probs)[-1]))


def warp(scores: Scores, params: SamplingParams) -> Scores:
    """Temperature, top-k, top-p, min-p. `params.temperature` must not be 0."""
    scores = apply_temperature(scores, params.temperature)
    scores = keep_top_k(scores, params.top_k)
    scores = keep_top_p(scores, params.top_p)
    return keep_min_p(scores, params.min_p)


def choose(scores: Scores, params: SamplingParams, rng: np.random.Generator) -> int:
    """Choose a token: the best at temperature 0, which leaves `rng` untouched, or else a draw."""
    if params.temperature == 0:
        return greedy(scores)
    return draw(probabilities(warp(scores, params)), rng)
