# SPDX-License-Identifier: Apache-2.0
"""What two models' distributions differ by, and what a model loses on a text."""

import numpy as np
from numpy.typing import NDArray

from adapmoe.sampling import log_softmax

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
