# SPDX-License-Identifier: Apache-2.0
"""What gating costs in quality and saves in work, by its threshold T."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.ticker import PercentFormatter

from adapmoe.figures.canvas import COLORS, drawing, legend_below


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
