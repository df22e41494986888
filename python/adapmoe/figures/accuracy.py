# SPDX-License-Identifier: Apache-2.0
"""How many needed experts can be told in advance, by layer."""

from pathlib import Path

from matplotlib.ticker import MaxNLocator, PercentFormatter

from adapmoe.figures.canvas import COLORS, MARKERS, drawing, legend_below
from adapmoe.planning.calibration_facts import CalibrationFacts


def draw_accuracy(path: Path, facts: CalibrationFacts, top_k: int, name: str) -> None:
    """One line per look-ahead depth, the trained gate for layer 0, and what guessing gives."""
    layers, experts = facts.frequency.shape
    with drawing(
        path, f"Experts predicted, by layer: {name}", "layer", "needed experts predicted"
    ) as axes:
        for number, (depth, row) in enumerate(sorted(facts.accuracy.items())):
            known = [(layer, a) for layer, a in enumerate(row) if a is not None]
            if not known:
                continue
            axes.plot(
                [layer for layer, _ in known],
                [a for _, a in known],
                color=COLORS[number],
                marker=MARKERS[number],
                label=f"{depth} layer{'s' if depth > 1 else ''} ahead",
            )
        axes.plot(
            [0], [facts.first_layer_accuracy], color=COLORS[3], marker="*", markersize=13,
            linestyle="none", label="trained gate, before the token is known",
        )  # fmt: skip
        axes.axhline(top_k / experts, color="#888888", linestyle=":", label="guessing")
        axes.set_xlim(-0.3, layers - 0.7)
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.3)
        legend_below(axes)
