# SPDX-License-Identifier: Apache-2.0
"""Quality against speed: measured for several thresholds, and drawn."""

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
    """One threshold: 0.01 is one percent more perplexity; `saved` of the activations."""

    threshold: float
    perplexity_increase: float
    saved: float
    decode_speedup: float  # tokens/s over those without gating


def draw_quality(path: Path, points: list[QualityPoint], chosen: float | None, name: str) -> None:
    """Perplexity on the left axis, activations saved and speed gained on the right one.

    Args:
        path: the PNG file.
        points: by ascending threshold.
        chosen: the threshold that calibration chose; None: gating does not pay.
        name: of the pack.
    """
    places = range(len(points))
    labels = ["off" if p.threshold == 0 else f"{p.threshold:.2g}" for p in points]
    if chosen is not None:
        best = min(places, key=lambda i: abs(points[i].threshold - chosen))
        labels[best] += "\nchosen"
    title = f"Quality against speed, by threshold: {name}"
    with drawing(path, title, "T", "perplexity increase") as axes:
        increase = [p.perplexity_increase for p in points]
        axes.plot(places, increase, color=COLORS[0], marker="o", label="perplexity increase (left)")
        right = axes.twinx()
        saved, faster = [p.saved for p in points], [p.decode_speedup - 1 for p in points]
        right.plot(places, saved, color=COLORS[1], marker="s", label="activations saved")
        right.plot(places, faster, color=COLORS[2], marker="^", ls="--", label="decoding faster")
        right.set_ylabel("saved, faster", fontsize=11)
        axes.set_xticks(list(places), labels)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        right.spines["top"].set_visible(False)
        axes.grid(alpha=0.3, axis="x")
        legend_below(axes)


# Around the threshold that calibration chose.
_FACTORS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
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
    """Perplexity, activations and decode speed by T, decoding with a share of experts resident.

    Args:
        pack: calibrated.
        text: at least four windows of 256 tokens, not the one that the pack was calibrated with.
        windows: how many of them.
        experts_resident: of the experts resident.
        on_progress: called with (thresholds done, thresholds).

    Returns:
        One point per threshold, the first with gating off; and the threshold that calibration
        chose, None where gating does not pay.

    Raises:
        CalibrationError: the pack is not calibrated, or the text too short.
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
    """Mean nats per token, and the share of activations saved."""
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
            probe.decode(ids)  # the experts that the threshold before left behind are not its own
            begin = time.perf_counter()
            probe.decode(ids)
            row.append(len(ids) / (time.perf_counter() - begin))
    return [median(row) for row in rounds]
