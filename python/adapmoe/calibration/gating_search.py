# SPDX-License-Identifier: Apache-2.0
"""Thresholds for both gates, measured on held-out windows, and what they save."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe._core import StepStats
from adapmoe.calibration.contract import WORTH_SAVING, Trial, candidate_thresholds
from adapmoe.calibration.contract import largest_threshold as search
from adapmoe.calibration.gate_rule import drop_costs, expert_shares
from adapmoe.calibration.log_softmax import next_token_nll
from adapmoe.calibration.probe import Probe
from adapmoe.calibration.recorded import Recorded
from adapmoe.calibration.windows import Ids

F64 = NDArray[np.float64]
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
) -> dict[str, Any]:
    """The threshold of gating="sensitivity"; see `_entry` for the result."""
    probe.set_gating("off")
    exact, _ = prefill_nll(probe, windows)

    def run(threshold: float) -> Trial:
        probe.set_gating("sensitivity", threshold, sensitivity)
        nll, counts = prefill_nll(probe, windows)
        return _trial(probe, threshold, nll - exact, counts)

    best = search(candidates, run, limit, on_trial)
    probe.set_gating("off")
    return _entry(best)


def search_residency(
    probe: Probe,
    windows: list[Ids],
    sensitivity: list[float],
    candidates: list[float],
    limit: float,
    kept_by: float,
    on_trial: OnTrial,
) -> dict[str, Any]:
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
    best = search(larger, run, limit, on_trial) if larger else None
    if best is None and kept_by > 0:
        best = run(kept_by)
    probe.set_gating("off")
    return {
        **_entry(best),
        "bytes_per_token": reads[best.threshold] if best else without.bytes_per_token,
        "bytes_per_token_without": without.bytes_per_token,
    }


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


def _entry(best: Trial | None) -> dict[str, Any]:
    """`pays` is false, and the threshold 0, where too few activations would be saved."""
    if best is None or best.saved < WORTH_SAVING:
        return {"pays": False, "threshold": 0.0, "activations_saved": best.saved if best else 0.0}
    return {
        "pays": True,
        "threshold": best.threshold,
        "perplexity_increase": best.perplexity_increase,
        "perplexity_increase_bound": best.perplexity_increase_bound,
        "activations_saved": best.saved,
        "gated_steps": best.gated,
    }
