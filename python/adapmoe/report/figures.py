# SPDX-License-Identifier: Apache-2.0
"""The figures of a report: drawing, heat map, hit rates, accuracy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from adapmoe.opening.allocation import CalibrationFacts
from adapmoe.tracing.replay import POLICIES, run_policy
from adapmoe.tracing.trace import Trace

# Told apart by people who see red and green alike, and in print (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@contextmanager
def drawing(
    path: Path, title: str, x: str, y: str, size: tuple[float, float] = (8.0, 5.0)
) -> Iterator[Axes]:
    """Axes to draw into; written to a PNG file at the end. `size` is in inches."""
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=13, loc="left")
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    yield axes
    canvas.print_figure(str(path), format="png")


def legend_below(axes: Axes) -> None:
    """What the lines are, of twin axes too, where no line can hide it."""
    assert isinstance(axes.figure, Figure)
    axes.figure.legend(loc="outside lower center", ncols=3, frameon=False)


_MOST_NUMBERS = 160  # cells that still have room for one


def draw_heat_map(path: Path, frequency: NDArray[np.float64], name: str) -> None:
    """`frequency`: float64 `[layers, experts]`, the share of tokens that need an expert."""
    layers, experts = frequency.shape
    size = (max(6.0, 1.8 + 0.62 * experts), max(4.0, 1.2 + 0.36 * layers))
    with drawing(path, f"Experts needed, by layer: {name}", "expert", "layer", size) as axes:
        top = float(frequency.max())
        image = axes.imshow(frequency, cmap="viridis", vmin=0.0, vmax=top, aspect="auto")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        assert axes.figure is not None
        bar = axes.figure.colorbar(image, ax=axes, format=PercentFormatter(1.0, decimals=0))
        bar.set_label("share of tokens")
        if frequency.size > _MOST_NUMBERS:
            return
        for (layer, expert), value in np.ndenumerate(frequency):
            color = "black" if value > 0.6 * top else "white"
            axes.text(
                expert, layer, f"{value:.0%}", ha="center", va="center", fontsize=8, color=color
            )


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
