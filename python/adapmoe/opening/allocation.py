# SPDX-License-Identifier: Apache-2.0
"""How layers share the memory for experts, and what calibration knows about each layer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import CalibrationError
from adapmoe.pack.calibration import FILE, read_calibration
from adapmoe.pack.manifest import PackGeometry
from adapmoe.settings import Settings
from adapmoe.tracing.replay import LayerFacts, layer_floors

if TYPE_CHECKING:
    from adapmoe._core import MemorySplit


@dataclass(frozen=True)
class CalibrationFacts:
    """Measured on the calibration text.

    Attributes:
        frequency: float64 `[num_layers, num_experts]`, share of tokens that use an expert.
        overlap: float64 `[num_layers]`, share of a token's experts that the next one uses too.
        accuracy: look-ahead depth -> share of needed experts that it predicts, one per layer; None
            for layers that nothing looks ahead to.
        first_layer_accuracy: the same for layer 0's trained gate.
        layers: what the dynamic programme needs.
    """

    frequency: NDArray[np.float64]
    overlap: NDArray[np.float64]
    accuracy: dict[int, list[float | None]]
    first_layer_accuracy: float
    layers: LayerFacts

    @property
    def next_layer(self) -> float:
        """Mean accuracy of looking one layer ahead; for layer 0, of the trained gate."""
        return float(np.mean(self.layers.prefetch_accuracy))

    @classmethod
    def of(cls, pack: Path) -> "CalibrationFacts | None":
        """From a pack's calibration.json; None if it has none.

        Raises:
            CalibrationError: it is damaged, or of another pack or version.
        """
        if not (pack / FILE).exists():
            return None
        found = read_calibration(pack)
        routing, ahead = found.routing, found.predictor.as_is
        first = found.first_layer_gate.accuracy
        try:
            frequency = np.array(routing.expert_frequency, np.float64)
        except ValueError as error:  # rows of different lengths
            raise CalibrationError(
                f"{pack / FILE}: `routing.expert_frequency`: {error}; calibrate the pack again"
            ) from error
        return cls(
            frequency,
            np.array(routing.consecutive_overlap, np.float64),
            ahead,
            first,
            LayerFacts([first if a is None else a for a in ahead[1]], found.single_ratio),
        )


def check_allocation(pack: Path, allocation: str) -> None:
    """Raise what `allocate` would raise, before anything is opened."""
    if allocation == "dp":
        read_calibration(pack)


def read_layer_facts(pack: Path, settings: Settings) -> LayerFacts | None:
    """What `allocate` needs to know of the layers; None: nothing, with these settings.

    Raises:
        CalibrationError: allocation "dp" without calibration.
    """
    if settings.allocation != "dp":
        return None
    calibrated = CalibrationFacts.of(pack)
    if calibrated is None:
        raise CalibrationError(
            f"{pack / FILE}: missing; allocation 'dp' needs it: "
            f"adapmoe calibrate {pack} --text FILE"
        )
    facts = calibrated.layers
    if settings.gating == "off":  # every step needs all of its experts
        return LayerFacts(facts.prefetch_accuracy, [0.0] * len(facts.prefetch_accuracy))
    return facts


def allocate(
    allocation: str, geometry: PackGeometry, split: "MemorySplit", facts: LayerFacts | None
) -> list[int]:
    """Soft floors for the present memory: experts per layer, [] for "global"."""
    capacity = split.frames * geometry.experts // split.frames_total
    return layer_floors(allocation, geometry, capacity, facts)
