# SPDX-License-Identifier: Apache-2.0
"""Rounds as medians with their spread."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from adapmoe.bench.measurement import Measurement
from adapmoe.bench.rounds import Round


@dataclass(frozen=True)
class Spread:
    """Of the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """`values` has at least one."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        """Three digits: median (least - most)."""
        return f"{self.median:.3g} ({self.least:.3g} - {self.most:.3g})"


@dataclass(frozen=True)
class VariantSummary:
    """One variant over all rounds.

    Attributes:
        measured: every field of Measurement by name, without those that a round lacks.
        fraction_of_bound: see Round.
        speedup: over the base, paired by round.
    """

    measured: dict[str, Spread]
    fraction_of_bound: Spread
    speedup: Spread

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        every = self.measured | {
            "fraction_of_bound": self.fraction_of_bound,
            "speedup": self.speedup,
        }
        return {name: vars(spread) for name, spread in every.items()}


def summarize(rounds: Sequence[Round]) -> dict[str, VariantSummary]:
    """{variant: summary}, in the order of the first round."""
    return {name: _variant(rounds, name) for name in rounds[0].runs}


def summarize_bound(rounds: Sequence[Round]) -> dict[str, Spread]:
    """Seconds of computing per token, and bytes per second of the disk."""
    return {
        name: Spread.of([getattr(one.bound, name) for one in rounds])
        for name in ("compute_s_per_token", "disk_bytes_per_s")
    }


def _variant(rounds: Sequence[Round], name: str) -> VariantSummary:
    columns = {
        field.name: [getattr(one.runs[name], field.name) for one in rounds]
        for field in fields(Measurement)
    }
    measured = {name: Spread.of(column) for name, column in columns.items() if None not in column}
    return VariantSummary(
        measured,
        Spread.of([one.fraction_of_bound(name) for one in rounds]),
        Spread.of([one.speedup(name) for one in rounds]),
    )
