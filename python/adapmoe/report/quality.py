# SPDX-License-Identifier: Apache-2.0
"""Measures and draws quality against speed, for several thresholds of the gate."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.ticker import PercentFormatter

from adapmoe.calibration.probe import Ids, Probe, cut_windows
from adapmoe.calibration.statistics import next_token_nll
from adapmoe.pack.calibration import read_calibration
from adapmoe.report.figures import COLORS, drawing, legend_below
from adapmoe.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class QualityPoint:
    """What one threshold costs and gains."""

    threshold: float
    perplexity_increase: float  # 0.01 is one percent
    saved: float  # share of the activations
    decode_speedup: float  # tokens/s over those without gating


def draw_quality(path: Path, points: list[QualityPoint], chosen: float | None, name: str) -> None:
    """Draw perplexity on the left axis, activations saved and speed gained on the right one.

    Args:
        path: the PNG file.
        points: by ascending threshold.
        chosen: the threshold that calibration chose; None: gating does not pay.
        name: of the pack.
    """
    positions = range(len(points))
    labels = ["off" if p.threshold == 0 else f"{p.threshold:.2g}" for p in points]
    if chosen is not None:
        best = min(positions, key=lambda i: abs(points[i].threshold - chosen))
        labels[best] += "\nchosen"
    title = f"Quality against speed, by threshold: {name}"
    with drawing(path, title, "T", "perplexity increase") as axes:
        increase = [p.perplexity_increase for p in points]
        axes.plot(
            positions, increase, color=COLORS[0], marker="o", label="perplexity increase (left)"
        )
        right = axes.twinx()
        saved, faster = [p.saved for p in points], [p.decode_speedup - 1 for p in points]
        right.plot(positions, saved, color=COLORS[1], marker="s", label="activations saved")
        right.plot(positions, faster, color=COLORS[2], marker="^", ls="--", label="decoding faster")
        right.set_ylabel("saved, faster", fontsize=11)
        axes.set_xticks(list(positions), labels)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        right.spines["top"].set_visible(False)
        axes.grid(alpha=0.3, axis="x")
        legend_below(axes)


_FACTORS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)  # times the threshold that calibration chose
_ROUNDS = 3
_DECODED_TOKENS = 64


def measure_quality(
    pack: Path,
    text: str,
    *,
    windows: int = 8,
    experts_resident: float = 0.5,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[QualityPoint], float | None]:
    """Measure perplexity, activations and decode speed for several thresholds.

    Args:
        pack: a calibrated pack.
        text: at least four windows of 256 tokens, other than the calibration text.
        windows: how many windows to use.
        experts_resident: share of the experts that is resident while decoding.
        on_progress: called with (thresholds done, thresholds in all).

    Returns:
        One point per threshold, the first with gating off; and the threshold that calibration
        chose, None if gating does not pay.

    Raises:
        CalibrationError: the pack is not calibrated, or the text is too short.
        ReadError: an expert could not be read.
    """
    found = read_calibration(pack)
    gate, values = found.gating.sensitivity, found.chosen
    chosen = gate.threshold if gate.pays else None
    middle = chosen or 0.01 * float(np.median(values))
    thresholds = [middle * factor for factor in _FACTORS]
    ids = np.array(Tokenizer.from_pack(pack).encode(text), np.int32)
    rows = []
    with Probe(pack, experts_resident=experts_resident) as probe:
        parts = cut_windows(ids, probe.window_tokens)[:windows]
        for done, threshold in enumerate(thresholds, start=1):
            probe.set_gating("sensitivity", threshold, values)
            rows.append(_perplexity(probe, parts))
            on_progress(done, len(thresholds))
        speeds = _speeds(probe, thresholds, values, parts[0][:_DECODED_TOKENS])
    nll, saved = zip(*rows, strict=True)
    points = [
        QualityPoint(t, math.expm1(n - nll[0]), s, v / speeds[0])
        for t, n, s, v in zip(thresholds, nll, saved, speeds, strict=True)
    ]
    return points, chosen


def _perplexity(probe: Probe, windows: list[Ids]) -> tuple[float, float]:
    """Nats per token, and the share of activations saved."""
    nll, tokens, activated = [], 0, 0
    for window in windows:
        logits, stats = probe.prefill(window)
        nll.append(next_token_nll(logits, window))
        tokens += stats.tokens
        activated += stats.experts_activated
    saved = 1 - activated / (tokens * probe.layers * probe.top_k)
    return float(np.concatenate(nll).mean()), saved


def _speeds(probe: Probe, thresholds: list[float], values: list[float], ids: Ids) -> list[float]:
    """Tokens per second, medians of interleaved rounds."""
    rounds: list[list[float]] = [[] for _ in thresholds]
    for _ in range(_ROUNDS):
        for row, threshold in zip(rounds, thresholds, strict=True):
            probe.set_gating("sensitivity", threshold, values)
            probe.decode(ids)  # warm up: the last threshold left other experts resident
            begin = time.perf_counter()
            probe.decode(ids)
            row.append(len(ids) / (time.perf_counter() - begin))
    return [median(row) for row in rounds]
