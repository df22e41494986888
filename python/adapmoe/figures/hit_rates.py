# SPDX-License-Identifier: Apache-2.0
"""Hit rate by budget and policy."""

from pathlib import Path

from matplotlib.ticker import PercentFormatter

from adapmoe.figures.canvas import COLORS, MARKERS, drawing, legend_below
from adapmoe.replay import POLICIES, run_policy
from adapmoe.trace import Trace

_POINTS = 9


def draw_hit_rates(path: Path, trace: Trace, name: str) -> None:
    """One line per policy over the share of experts that fit, and Belady's optimum above them."""
    size = trace.geometry
    least = max(size.top_k, 1)
    capacities = sorted(
        {least, size.cycle, *(round(size.experts * (i + 1) / _POINTS) for i in range(_POINTS))}
    )
    capacities = [c for c in capacities if least <= c <= size.experts]
    shares = [c / size.experts for c in capacities]
    with drawing(
        path, f"Hit rate by budget: {name}", "experts that fit in memory", "found resident"
    ) as axes:
        for number, policy in enumerate(("belady", *POLICIES)):
            rates = [_rate(trace, capacity, policy) for capacity in capacities]
            best = policy == "belady"
            axes.plot(
                shares,
                rates,
                label="Belady's optimum" if best else policy,
                color="#666666" if best else COLORS[number - 1],
                marker=None if best else MARKERS[number - 1],
                linestyle="--" if best else "-",
                markersize=5,
            )
        cycle = size.cycle / size.experts
        axes.axvline(cycle, color="#bbbbbb", linewidth=1)
        axes.annotate(" one token's experts", (cycle, 0.02), color="#666666", fontsize=9)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
        legend_below(axes)


def _rate(trace: Trace, capacity: int, policy: str) -> float:
    needed, hits = run_policy(trace, capacity, policy)
    return hits / needed
