# SPDX-License-Identifier: Apache-2.0
"""One look for all figures, without a display."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
