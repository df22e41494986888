# SPDX-License-Identifier: Apache-2.0
"""How much worse a mean may really be than it was measured."""

import numpy as np
from numpy.typing import NDArray

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
