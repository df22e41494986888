# SPDX-License-Identifier: Apache-2.0
"""How often each expert of each layer is needed."""

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from adapmoe.figures.canvas import drawing

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
