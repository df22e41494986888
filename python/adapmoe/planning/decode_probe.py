# SPDX-License-Identifier: Apache-2.0
"""Short decodes of a given text, timed step by step."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapmoe.sequence import Sequence


@dataclass(frozen=True)
class DecodeTimes:
    """One value per step, float64 `[n]`: seconds in all, without waiting for experts, hit rate."""

    wall_s: NDArray[np.float64]
    compute_s: NDArray[np.float64]
    hit_rate: NDArray[np.float64]

    @property
    def tokens_per_s(self) -> float:
        """Over all steps."""
        return len(self.wall_s) / float(self.wall_s.sum())

    @property
    def mean_hit_rate(self) -> float:
        """From 0 to 1."""
        return float(self.hit_rate.mean())


def time_decode(
    sequence: Sequence, ids: NDArray[np.int32], *, seconds: float, warm_up: int = 2
) -> DecodeTimes:
    """Append the given tokens one by one, as decoding would.

    Args:
        sequence: an open one.
        ids: int32 `[n]`, n > warm_up.
        seconds: no further step is begun after this time; one step is always measured.
        warm_up: steps that are not counted.
    """
    rows: list[tuple[float, float, float]] = []
    deadline = time.perf_counter() + seconds
    for number, token in enumerate(ids):
        begin = time.perf_counter()
        sequence.decode(int(token)).argmax()
        wall = time.perf_counter() - begin
        stats = sequence.last_stats
        if number >= warm_up:
            rows.append((wall, wall - stats.stall_s, stats.expert_hits / stats.experts_used))
        if rows and time.perf_counter() > deadline:
            break
    wall_s, compute_s, hit_rate = np.array(rows, np.float64).T
    return DecodeTimes(wall_s, compute_s, hit_rate)
