# SPDX-License-Identifier: Apache-2.0
"""Settings of a session that come from the pack's calibration unless the user gives them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapmoe.errors import CalibrationError
from adapmoe.pack.calibration import FILE, read_calibration, read_first_layer_gate

_log = logging.getLogger("adapmoe")


@dataclass(frozen=True)
class Gating:
    """A gate: mode, T of the rule, and s_i, one per layer (empty for "off")."""

    mode: str
    threshold: float
    sensitivity: list[float]

    @property
    def options(self) -> dict[str, Any]:
        """As settings of a core session."""
        return {
            "gating": self.mode,
            "gating_threshold": self.threshold,
            "sensitivity": self.sensitivity,
        }


def choose_gating(
    pack: Path, mode: str, threshold: float | None, sensitivity: Sequence[float]
) -> Gating:
    """What is given wins; the rest comes from calibration.json.

    Raises:
        CalibrationError: something is needed from a calibration, and there is none of this pack.
        ValueError: sensitivities without the threshold that belongs to them.
    """
    if mode not in ("sensitivity", "residency"):
        return Gating(mode, threshold or 0.0, list(sensitivity))  # the session knows its modes
    if len(sensitivity) > 0:
        if threshold is None:
            raise ValueError(
                "sensitivity= needs gating_threshold=: the calibrated threshold belongs to the "
                "calibrated sensitivities"
            )
        return Gating(mode, threshold, list(sensitivity))
    found = read_calibration(pack)
    if threshold is not None:
        return Gating(mode, threshold, found.chosen)
    calibrated = found.gating.threshold(mode)
    if calibrated is None:
        raise CalibrationError(
            f"{pack / FILE}: has no threshold for gating={mode!r}, which was left out; "
            "calibrate the pack again, or give gating_threshold="
        )
    if not calibrated.pays:
        _log.warning(
            "%s: gating=%r does not pay for this model within +%g %% perplexity; nothing is left "
            "out",
            pack,
            mode,
            100 * found.gating.max_perplexity_increase,
        )
    return Gating(mode, calibrated.threshold, found.chosen)


@dataclass(frozen=True)
class FirstLayer:
    """How layer 0 is foreseen: by a trained gate `[num_local_experts * hidden_size]`, flat, or []
    for none, and by its own router on the embedding."""

    gate: list[float]
    embedding: bool

    @property
    def options(self) -> dict[str, Any]:
        """As settings of a core session."""
        return {"first_layer_gate": self.gate, "first_layer_embedding": self.embedding}


def choose_first_layer(pack: Path, prefetch: int, first_layer: str) -> FirstLayer:
    """Without calibration there is no trained gate.

    Raises:
        CalibrationError: the calibration is of another pack.
    """
    gate: list[float] = []
    if prefetch > 0 and first_layer in ("both", "hidden") and (pack / FILE).exists():
        gate = read_first_layer_gate(pack, read_calibration(pack)).reshape(-1).tolist()
    return FirstLayer(gate, first_layer in ("both", "embedding"))
