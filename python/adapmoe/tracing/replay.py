# SPDX-License-Identifier: Apache-2.0
"""Recorded routing run through the eviction policies of the runtime, without model or disk."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from adapmoe import _core
from adapmoe.core_types import ReplayCounts
from adapmoe.errors import BudgetError
from adapmoe.pack.manifest import PackGeometry
from adapmoe.tracing.trace import Trace
from adapmoe.units import format_bytes, parse_memory, parse_percent

POLICIES = ("next-use", "farthest-layer", "lru", "lfru", "least-stale")
ALLOCATIONS = ("global", "uniform", "dp")

_EXPERTS = re.compile(r"\s*(\d+)[\s-]*experts?\s*", re.ASCII)


@dataclass(frozen=True)
class LayerFacts:
    """What the dynamic programme wants to know, one number per layer, from calibration."""

    prefetch_accuracy: list[float]
    single_ratio: list[float]


@dataclass(frozen=True)
class ReplayRow:
    """One policy at one budget.

    Attributes:
        budget: as it was asked for; capacity: the experts it holds.
        visits, hits: experts needed, and of them resident.
        belady_hits: what the best possible policy would have had.
    """

    budget: str
    capacity: int
    policy: str
    allocation: str
    visits: int
    hits: int
    belady_hits: int

    @property
    def hit_rate(self) -> float:
        """From 0 to 1."""
        return self.hits / self.visits if self.visits else 0.0

    @property
    def belady_hit_rate(self) -> float:
        """Upper bound of `hit_rate`."""
        return self.belady_hits / self.visits if self.visits else 0.0

    @property
    def share_of_belady(self) -> float:
        """1 where the policy is as good as any can be."""
        return self.hits / self.belady_hits if self.belady_hits else 1.0


def parse_budget(text: str, geometry: PackGeometry) -> int:
    """Experts that a budget holds: "25%" of all, "16-experts", or a memory ceiling as "12GiB".

    Raises:
        BudgetError: a ceiling below the fixed part and one layer's experts.
        ValueError: not a budget, or a number of experts that the model cannot use.
    """
    if "%" in text:
        return max(1, round(parse_percent(text) * geometry.experts))
    if match := _EXPERTS.fullmatch(text):
        count = int(match[1])
        if not 1 <= count <= geometry.experts:
            raise ValueError(f"{text!r}: this model has from 1 to {geometry.experts} experts")
        return count
    memory = parse_memory(text, "budget")
    if memory == 0:
        raise ValueError("a budget must be a number: 50%, 16-experts or a memory such as 12GiB")
    capacity = geometry.capacity(memory)
    if capacity < geometry.top_k:
        least = geometry.fixed_bytes + geometry.top_k * geometry.expert_bytes
        raise BudgetError(
            f"{text}: below the floor: weights, KV cache and scratch take "
            f"{format_bytes(geometry.fixed_bytes)}, with one layer's experts {format_bytes(least)}"
        )
    return capacity


def layer_floors(
    allocation: str, geometry: PackGeometry, capacity: int, facts: LayerFacts | None
) -> list[int]:
    """Experts that each layer should keep (soft), or [] for one global pool.

    Raises:
        ValueError: an unknown allocation, or "dp" without `facts`.
    """
    if allocation == "global":
        return []
    if allocation == "uniform":
        return _core.uniform_layers(geometry.num_layers, geometry.num_experts, capacity)
    if allocation != "dp":
        raise ValueError(f"allocation {allocation!r}: expected one of {', '.join(ALLOCATIONS)}")
    if facts is None:
        raise ValueError(
            "allocation dp needs calibration data: give --calibration PACK of a calibrated pack"
        )
    return _core.allocate_layers(
        facts.prefetch_accuracy, facts.single_ratio, geometry.num_experts, capacity
    )


def replay(
    trace: Trace,
    budgets: Sequence[str],
    policies: Sequence[str] = POLICIES,
    allocations: Sequence[str] = ("global",),
    facts: LayerFacts | None = None,
) -> list[ReplayRow]:
    """Run a trace through every policy and allocation at every budget.

    Raises:
        BudgetError, ValueError: as `parse_budget` and `layer_floors`; an unknown policy.
    """
    rows = []
    for budget in budgets:
        capacity = parse_budget(budget, trace.geometry)
        best = run_policy(trace, capacity, "belady").hits
        for policy in policies:
            for allocation in allocations:
                floors = layer_floors(allocation, trace.geometry, capacity, facts)
                visits, hits = run_policy(trace, capacity, policy, floors)
                rows.append(ReplayRow(budget, capacity, policy, allocation, visits, hits, best))
    return rows


def run_policy(
    trace: Trace, capacity: int, policy: str, floors: Sequence[int] = ()
) -> ReplayCounts:
    """Run it with room for `capacity` experts."""
    size = trace.geometry
    return _core.replay_trace(
        trace.visits, size.num_layers, size.num_experts, capacity, policy, list(floors)
    )


def recommend(rows: Sequence[ReplayRow]) -> tuple[str, str]:
    """The (policy, allocation) to use: the first whose hits over all budgets are near the most.

    Near is half a percent, so that the simplest of equals wins and not chance.

    Raises:
        ValueError: no rows.
    """
    hits: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row.policy, row.allocation)
        hits[key] = hits.get(key, 0) + row.hits
    enough = 0.995 * max(hits.values())
    return next(key for key, count in hits.items() if count >= enough)
