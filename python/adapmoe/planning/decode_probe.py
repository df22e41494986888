# SPDX-License-Identifier: Apache-2.0
"""Short decodes of a given text, timed step by step."""

import time
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from adapmoe.sequence import Sequence

_PROMPT_TOKENS = 32
_WARM_UP = 8
_FEWEST_STEPS = 24


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


def time_decode(sequence: Sequence, ids: NDArray[np.int32], *, seconds: float) -> DecodeTimes:
    """Prefill the first tokens and append the others one by one, as decoding would.

    Args:
        sequence: an open one; what it holds is forgotten.
        ids: int32 `[n]`, n > 1; no more than fit into the context. If they are few, all but the
            prompt are decoded again.
        seconds: no further step is begun after this time; one step is always measured.
    """
    prompt = min(_PROMPT_TOKENS, len(ids) // 2)
    rest = ids[prompt:]
    sequence.reset()
    sequence.prefill(ids[:prompt])
    rows: list[tuple[float, float, float]] = []
    deadline = time.perf_counter() + seconds
    for number, token in enumerate(islice(cycle(rest), max(len(rest), _WARM_UP + _FEWEST_STEPS))):
        if number % len(rest) == 0:
            sequence.truncate(prompt)
        begin = time.perf_counter()
        sequence.decode(int(token)).argmax()
        wall = time.perf_counter() - begin
        stats = sequence.last_stats
        if number >= _WARM_UP:
            rows.append((wall, wall - stats.stall_s, stats.expert_hits / stats.experts_used))
        if rows and time.perf_counter() > deadline:
            break
    wall_s, compute_s, hit_rate = np.array(rows, np.float64).T
    return DecodeTimes(wall_s, compute_s, hit_rate)
