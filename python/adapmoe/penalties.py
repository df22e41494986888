# SPDX-License-Identifier: Apache-2.0
"""Changes of the scores that depend on the tokens so far or on single token ids.

Pure functions on float64 `[vocab_size]` scores; they return the argument itself when they are off.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from adapmoe.sampling import Scores


def add_bias(scores: Scores, bias: Mapping[int, float]) -> Scores:
    """Add `bias[token_id]` to the scores of the tokens it names."""
    if not bias:
        return scores
    changed: Scores = scores.copy()
    changed[list(bias)] += np.fromiter(bias.values(), np.float64, len(bias))
    return changed


def penalise_repetition(scores: Scores, seen: NDArray[np.integer], penalty: float) -> Scores:
    """Make the tokens `seen`, ids in any number and order, less likely; a penalty below 1: more."""
    if penalty == 1 or seen.size == 0:
        return scores
    changed: Scores = scores.copy()
    changed[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    return changed


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
    counts = np.fromiter(uses.values(), np.float64, len(uses))
    changed[list(uses)] -= presence + frequency * counts
    return changed
