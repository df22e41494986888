# SPDX-License-Identifier: Apache-2.0
"""Changes of the scores that depend on the tokens so far or on single token ids.

Pure functions on float64 `[vocab_size]` scores; they return the argument itself when they are off.
Scores stay finite: what overflows becomes the largest or smallest float64. -inf, a ban, stays -inf.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from adapmoe.sampling import Scores, limits

_LARGEST = float(np.finfo(np.float64).max)


@limits
def add_bias(scores: Scores, bias: Mapping[int, float]) -> Scores:
    """Add `bias[token_id]` to the scores of the tokens it names."""
    if not bias:
        return scores
    changed: Scores = scores.copy()
    ids = list(bias)
    values = np.fromiter(bias.values(), np.float64, len(bias))
    biased = _finite(scores[ids], scores[ids] + values)
    changed[ids] = np.where(np.isneginf(values), -np.inf, biased)
    return changed


@limits
def penalise_repetition(scores: Scores, seen: NDArray[np.integer], penalty: float) -> Scores:
    """Make the tokens `seen`, ids in any number and order, less likely; a penalty below 1: more."""
    if penalty == 1 or seen.size == 0:
        return scores
    changed: Scores = scores.copy()
    before = scores[seen]
    changed[seen] = _finite(before, np.where(before < 0, before * penalty, before / penalty))
    return changed


@limits
def penalise_use(
    scores: Scores, uses: Mapping[int, int], presence: float, frequency: float
) -> Scores:
    """Subtract `presence + frequency * uses` from the scores of tokens used at least once.

    Args:
        scores: float64 `[vocab_size]`.
        uses: how often each token was generated; tokens that were not are absent.
        presence: subtracted once.
        frequency: subtracted per use.
    """
    if not uses or (presence == 0 and frequency == 0):
        return scores
    changed: Scores = scores.copy()
    ids = list(uses)
    counts = np.fromiter(uses.values(), np.float64, len(uses))
    # Clipped first: of a banned token, -inf - -inf would be NaN.
    penalty = np.clip(presence + frequency * counts, -_LARGEST, _LARGEST)
    changed[ids] = _finite(scores[ids], scores[ids] - penalty)
    return changed


def _finite(before: Scores, after: Scores) -> Scores:
    """`after`, held inside float64, but -inf where `before` was."""
    return np.where(np.isneginf(before), -np.inf, np.clip(after, -_LARGEST, _LARGEST))
