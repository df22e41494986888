# SPDX-License-Identifier: Apache-2.0
"""The plan's predictions beside what decoding really does."""

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adapmoe.planning.decode_probe import DecodeTimes, time_decode
from adapmoe.planning.plan import Plan, Prediction
from adapmoe.sequence import Sequence

if TYPE_CHECKING:
    from adapmoe.llm import LLM

_ROUNDS = 3


@dataclass(frozen=True)
class Check:
    """One budget: the prediction, and what was measured, the median of some rounds."""

    predicted: Prediction
    tokens_per_s: float
    slowest: float
    fastest: float
    hit_rate: float
    tokens: int

    @property
    def ratio(self) -> float:
        """Predicted over measured speed: 1 is perfect, above 1 is too hopeful."""
        return self.predicted.tokens_per_s / self.tokens_per_s


def check_plan(
    llm: "LLM", plan: Plan, ids: NDArray[np.int32], *, seconds: float = 10.0
) -> list[Check]:
    """Decode a text at three budgets of the plan, in interleaved rounds.

    Args:
        llm: the model that was planned for, opened with the recommended policy.
        plan: its plan.
        ids: int32 `[n]`, text that decoding was not measured on, cut to what the context holds; at
            least 2 tokens.
        seconds: per budget.
    """
    before = llm.memory_split.memory_bytes
    budgets = budgets_to_check(plan)
    try:
        with llm.new_sequence() as sequence:
            rounds = [
                [_decode(llm, sequence, b, ids, seconds / _ROUNDS) for b in budgets]
                for _ in range(_ROUNDS)
            ]
    finally:
        llm.set_memory(before)
    return [
        _check(b, list(runs)) for b, runs in zip(budgets, zip(*rounds, strict=True), strict=True)
    ]


def _decode(
    llm: "LLM", sequence: Sequence, budget: Prediction, ids: NDArray[np.int32], seconds: float
) -> DecodeTimes:
    llm.set_memory(budget.memory_bytes)
    return time_decode(sequence, ids[: llm.max_context], seconds=seconds)


def _check(budget: Prediction, runs: list[DecodeTimes]) -> Check:
    speeds = sorted(run.tokens_per_s for run in runs)
    hit_rate = float(np.concatenate([run.hit_rate for run in runs]).mean())
    tokens = sum(len(run.wall_s) for run in runs)
    return Check(budget, median(speeds), speeds[0], speeds[-1], hit_rate, tokens)


def budgets_to_check(plan: Plan) -> list[Prediction]:
    """A quarter, a half and three quarters of the experts where they fit, else what is nearest."""
    within = [p for p in plan.curve if p.memory_bytes <= plan.memory_bytes]
    top = max(p.share for p in within)
    wanted = (0.25, 0.5, 0.75) if top >= 0.75 else (top / 3, 2 * top / 3, top)
    picked = [min(within, key=lambda p: abs(p.share - share)) for share in wanted]
    return sorted(set(picked), key=lambda p: p.memory_bytes)
