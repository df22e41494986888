# SPDX-License-Identifier: Apache-2.0
"""The largest threshold of the gating rule that keeps a quality contract."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from adapmoe._core import StepStats
from adapmoe.calibration.gate_rule import drop_costs, expert_shares
from adapmoe.calibration.lookahead import Recorded
from adapmoe.calibration.probe import Ids, Probe
from adapmoe.calibration.statistics import next_token_nll, upper_bound
from adapmoe.pack.calibration import Threshold

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


OnTrial = Callable[[int, int], None]

# The gate that looks at the cache is measured token by token, which takes much longer.
DECODED_WINDOWS = 32


@dataclass
class Counts:
    """Sums over the steps of some windows."""

    tokens: int = 0
    activated: int = 0
    gated: int = 0
    bytes_read: int = 0

    def add(self, stats: StepStats) -> None:
        """Count one step."""
        self.tokens += stats.tokens
        self.activated += stats.experts_activated
        self.gated += stats.gated
        self.bytes_read += stats.bytes_read

    @property
    def bytes_per_token(self) -> float:
        """Expert bytes read from the pack."""
        return self.bytes_read / self.tokens


def candidates_from(
    recorded: list[Recorded], sensitivity: list[float], probe: Probe
) -> list[float]:
    """Thresholds to try, from what dropping would cost by the rule on recorded routing."""
    logits = np.concatenate([r.router_logits for r in recorded], axis=1)
    shares = expert_shares(logits, probe.router)
    return candidate_thresholds(drop_costs(shares, np.asarray(sensitivity)))


def prefill_nll(probe: Probe, windows: list[Ids]) -> tuple[F64, Counts]:
    """Nats `[windows, n - 1]` under the gate in force, each window computed at once."""
    counts, nll = Counts(), []
    for window in windows:
        logits, stats = probe.prefill(window)
        counts.add(stats)
        nll.append(next_token_nll(logits, window))
    return np.stack(nll), counts


def decode_nll(probe: Probe, windows: list[Ids]) -> tuple[F64, Counts]:
    """The same token by token."""
    counts, nll = Counts(), []
    for window in windows:
        logits, steps = probe.decode(window)
        for stats in steps:
            counts.add(stats)
        nll.append(next_token_nll(logits, window))
    return np.stack(nll), counts


def search_sensitivity(
    probe: Probe,
    windows: list[Ids],
    sensitivity: list[float],
    candidates: list[float],
    limit: float,
    on_trial: OnTrial,
) -> Threshold:
    """The threshold of gating="sensitivity", without bytes."""
    probe.set_gating("off")
    exact, _ = prefill_nll(probe, windows)

    def run(threshold: float) -> Trial:
        probe.set_gating("sensitivity", threshold, sensitivity)
        nll, counts = prefill_nll(probe, windows)
        return _trial(probe, threshold, nll - exact, counts)

    best = largest_threshold(candidates, run, limit, on_trial)
    probe.set_gating("off")
    return _found(best)


def search_residency(
    probe: Probe,
    windows: list[Ids],
    sensitivity: list[float],
    candidates: list[float],
    limit: float,
    kept_by: float,
    on_trial: OnTrial,
) -> Threshold:
    """The threshold of gating="residency" for the memory that `probe` was opened with.

    Only what is not resident is dropped, so the same loss allows a larger threshold: at least
    `kept_by`, with which gating="sensitivity", which drops all of that and more, keeps the contract
    (0: with none). The search goes on from there.
    """
    windows = windows[:DECODED_WINDOWS]
    probe.set_gating("off")
    exact, without = decode_nll(probe, windows)
    reads: dict[float, float] = {}

    def run(threshold: float) -> Trial:
        probe.set_gating("residency", threshold, sensitivity)
        nll, counts = decode_nll(probe, windows)
        reads[threshold] = counts.bytes_per_token
        return _trial(probe, threshold, nll - exact, counts)

    larger = [t for t in candidates if t > kept_by]
    best = largest_threshold(larger, run, limit, on_trial) if larger else None
    if best is None and kept_by > 0:
        best = run(kept_by)
    probe.set_gating("off")
    return replace(
        _found(best),
        bytes_per_token=reads[best.threshold] if best else without.bytes_per_token,
        bytes_per_token_without=without.bytes_per_token,
    )


def sensitivity_reads(
    probe: Probe, windows: list[Ids], sensitivity: list[float], threshold: float
) -> float:
    """Bytes read per token under gating="sensitivity", decoding with the probe's memory."""
    probe.set_gating("sensitivity", threshold, sensitivity)
    _, counts = decode_nll(probe, windows[:DECODED_WINDOWS])
    probe.set_gating("off")
    return counts.bytes_per_token


def _trial(probe: Probe, threshold: float, increase: F64, counts: Counts) -> Trial:
    steps = counts.tokens * probe.layers
    saved = 1 - counts.activated / (steps * probe.top_k)
    return Trial(threshold, increase, saved, counts.gated / steps)


def _found(best: Trial | None) -> Threshold:
    if best is None or best.saved < WORTH_SAVING:
        return Threshold(pays=False, threshold=0.0, activations_saved=best.saved if best else 0.0)
    return Threshold(
        pays=True,
        threshold=best.threshold,
        perplexity_increase=best.perplexity_increase,
        perplexity_increase_bound=best.perplexity_increase_bound,
        activations_saved=best.saved,
        gated_steps=best.gated,
    )
