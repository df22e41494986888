# SPDX-License-Identifier: Apache-2.0
"""From measurements and routing to a prediction for every budget."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.generation.sequence import Sequence
from adapmoe.pack.manifest import PackGeometry
from adapmoe.planning.measure import DecodeTimes, Measurements, time_decode
from adapmoe.planning.service_memory import memory_max
from adapmoe.tracing.replay import POLICIES, run_policy
from adapmoe.tracing.trace import Trace
from adapmoe.units import format_bytes

if TYPE_CHECKING:
    from adapmoe.llm import LLM


_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
_MIN_ACCURACY = 0.6  # share of the experts read ahead that should be needed


@dataclass(frozen=True)
class Prediction:
    """What to expect from one budget.

    Attributes:
        memory_bytes: the ceiling.
        experts, share: how many experts fit under it, and what share of all that is.
        hit_rate: of the recommended policy; belady_hit_rate: of the best possible one.
        tokens_per_s: expected; low, high: by the slowest and the fastest quarter of the steps that
            were measured.
    """

    memory_bytes: int
    experts: int
    share: float
    hit_rate: float
    belady_hit_rate: float
    tokens_per_s: float
    low: float
    high: float


@dataclass(frozen=True)
class Plan:
    """What `adapmoe plan` prints.

    Attributes:
        at_memory: the prediction for the given ceiling.
        curve: predictions from the floor to everything resident.
        recommended: settings for `LLM`; reasons: a few words for each.
        memory_max_bytes: `MemoryMax=` of a unit that serves with the recommended memory.
        routing: where the hit rates come from.
        warnings: a sentence each.
    """

    memory_bytes: int
    floor_bytes: int
    cycle_bytes: int
    everything_bytes: int
    routing: str
    at_memory: Prediction
    curve: list[Prediction]
    recommended: dict[str, Any]
    reasons: dict[str, str]
    memory_max_bytes: int
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def make_plan(
    measured: Measurements, trace: Trace, routing: str, next_layer_accuracy: float | None
) -> Plan:
    """Predict speeds and recommend settings.

    Args:
        measured: on this machine, with the ceiling that the plan is for.
        trace: the routing of decoding.
        routing: where the trace comes from, for people.
        next_layer_accuracy: mean accuracy of looking one layer ahead, from calibration; None
            without one.
    """
    size, split = measured.geometry, measured.split
    capacity = min(max(split.frames // measured.tiles, 1), size.experts)
    policy = max(POLICIES, key=lambda name: run_policy(trace, capacity, name).hits)
    everything = size.everything_bytes
    ceilings = {split.floor_bytes, split.memory_bytes, size.fixed_bytes + split.cycle_bytes}
    ceilings |= {size.fixed_bytes + round(s * size.experts) * size.expert_bytes for s in _SHARES}
    curve = [
        predict(measured, trace, policy, ceiling)
        for ceiling in sorted(ceilings)
        if split.floor_bytes <= ceiling <= everything
    ]
    at_memory = predict(measured, trace, policy, split.memory_bytes)
    recommended, reasons = _recommend(measured, policy, at_memory, next_layer_accuracy, everything)
    return Plan(
        split.memory_bytes,
        split.floor_bytes,
        split.cycle_bytes,
        everything,
        routing,
        at_memory,
        curve,
        recommended,
        reasons,
        memory_max(recommended["memory"]),
        _warnings(measured, size),
    )


def predict(measured: Measurements, trace: Trace, policy: str, memory_bytes: int) -> Prediction:
    """Speed and hit rate under a ceiling."""
    size = measured.geometry
    experts = max(size.capacity(memory_bytes), 1)
    needed, hits = run_policy(trace, experts, policy)
    best = run_policy(trace, experts, "belady").hits
    # If everything fits, it is read once and stays; those first reads do not count.
    hit_rate = 1.0 if experts == size.experts else hits / needed
    expected, slow, fast = (1 / time.token_s(hit_rate) for time in measured.times)
    return Prediction(
        memory_bytes,
        experts,
        experts / size.experts,
        hit_rate,
        1.0 if experts == size.experts else best / needed,
        expected,
        slow,
        fast,
    )


def _recommend(
    measured: Measurements,
    policy: str,
    at_memory: Prediction,
    accuracy: float | None,
    everything: int,
) -> tuple[dict[str, Any], dict[str, str]]:
    memory = min(at_memory.memory_bytes, everything)
    disk = measured.disk
    depth, why = _prefetch(at_memory, accuracy)
    recommended = {
        "memory": memory,
        "policy": policy,
        "prefetch": depth,
        "threads": _core.usable_cpus(),
        "read_depth": disk.read_depth,
        "request_bytes": disk.request_bytes,
    }
    reasons = {
        "memory": "all of it helps" if memory < everything else "everything fits into this",
        "policy": f"most hits at this memory: {at_memory.hit_rate:.1%}, "
        f"where the optimum has {at_memory.belady_hit_rate:.1%}",
        "prefetch": why,
        "threads": "one per core that this process may use: affinity and CPU quota",
        "read_depth": f"{disk.bytes_per_s / 1e9:.2f} GB/s; no other number reads clearly faster",
        "request_bytes": "of one read at most" if disk.request_bytes else "tiles are read whole",
    }
    return recommended, reasons


def _prefetch(at_memory: Prediction, accuracy: float | None) -> tuple[int, str]:
    if at_memory.hit_rate == 1.0:
        return 0, "everything is resident"
    if accuracy is not None and accuracy < _MIN_ACCURACY:
        return 0, f"only {accuracy:.0%} of the experts can be predicted"
    return 1, "used while decoding measures that it makes steps shorter"


def _warnings(measured: Measurements, size: PackGeometry) -> list[str]:
    split = measured.split
    found = []
    if split.expert_bytes < split.cycle_bytes:
        need = size.fixed_bytes + split.cycle_bytes
        found.append(
            f"experts get {format_bytes(split.expert_bytes)}, less than the "
            f"{format_bytes(split.cycle_bytes)} that one token needs: most of them are read again "
            f"for every token; {format_bytes(need)} of memory or more would help"
        )
    if not measured.disk.direct:
        found.append(
            "O_DIRECT is refused here: the disk was measured through the page cache, which is "
            "faster than a cold disk"
        )
    return found


_ROUNDS = 3


@dataclass(frozen=True)
class Check:
    """The prediction for one budget, and what was measured: the median of some rounds."""

    predicted: Prediction
    tokens_per_s: float
    slowest: float
    fastest: float
    hit_rate: float
    tokens: int

    @property
    def ratio(self) -> float:
        """Predicted over measured speed: 1 is perfect, above 1 is too optimistic."""
        return self.predicted.tokens_per_s / self.tokens_per_s


def check_plan(
    llm: "LLM", plan: Plan, ids: NDArray[np.int32], *, seconds: float = 10.0
) -> list[Check]:
    """Decode a text at three budgets of the plan, in interleaved rounds.

    Args:
        llm: the model of the plan, opened with the recommended policy.
        plan: its plan.
        ids: int32 `[n]`, at least 2 tokens of text that was not used for the plan; cut to what the
            context holds.
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
    """A quarter, half and three quarters of the experts, or what comes nearest and fits."""
    within = [p for p in plan.curve if p.memory_bytes <= plan.memory_bytes]
    top = max(p.share for p in within)
    wanted = (0.25, 0.5, 0.75) if top >= 0.75 else (top / 3, 2 * top / 3, top)
    picked = [min(within, key=lambda p: abs(p.share - share)) for share in wanted]
    return sorted(set(picked), key=lambda p: p.memory_bytes)
