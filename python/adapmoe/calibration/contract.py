# SPDX-License-Identifier: Apache-2.0
"""The largest threshold that keeps the promised quality."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapmoe.calibration.bootstrap import upper_bound

F64 = NDArray[np.float64]

# Below this share of activations saved, gating is not worth its risk.
WORTH_SAVING = 0.02
_CANDIDATES = 128


@dataclass(frozen=True)
class Trial:
    """What one threshold did to the held-out windows.

    Attributes:
        increase: per-token nats above those without gating, float64 `[windows, n]`.
        saved: share of expert activations that were dropped.
        gated: share of (token, layer) steps that dropped something; at top-2 the steps with a
            single expert.
    """

    threshold: float
    increase: F64
    saved: float
    gated: float

    @property
    def perplexity_increase(self) -> float:
        """Measured: 0.01 is one percent."""
        return math.expm1(float(self.increase.mean()))

    @property
    def perplexity_increase_bound(self) -> float:
        """At most this much with 95 % confidence."""
        return math.expm1(upper_bound(self.increase))


def candidate_thresholds(costs: F64) -> list[float]:
    """Ascending thresholds, in steps of about the same number of experts dropped.

    Args:
        costs: the thresholds above which experts are dropped, of any shape.
    """
    quantiles = np.quantile(costs, np.arange(1, _CANDIDATES + 1) / _CANDIDATES)
    quantiles[-1] *= 1.001  # drops all, whatever the runtime's float32 rounds to
    return [float(t) for t in np.unique(quantiles) if t > 0]


def largest_threshold(
    candidates: list[float],
    run: Callable[[float], Trial],
    limit: float,
    on_trial: Callable[[int, int], None],
) -> Trial | None:
    """Bisect for the largest threshold whose bound on the perplexity increase is within `limit`.

    Relies on more dropping costing more. Returns None where even the first candidate is too much.
    """
    most = math.ceil(math.log2(len(candidates))) + 1
    trials = 0

    def keeps(index: int) -> Trial | None:
        nonlocal trials
        trial = run(candidates[index])
        trials += 1
        on_trial(trials, most)
        return trial if trial.perplexity_increase_bound <= limit else None

    best = keeps(len(candidates) - 1)
    if best is not None:
        on_trial(most, most)
        return best
    low, high = -1, len(candidates) - 1  # low keeps the contract, high does not
    while high - low > 1:
        middle = (low + high) // 2
        trial = keeps(middle)
        if trial is None:
            high = middle
        else:
            low, best = middle, trial
    on_trial(most, most)
    return best
