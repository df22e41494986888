# SPDX-License-Identifier: Apache-2.0
"""calibration.json and first_layer_gate.npy beside the pack they belong to."""

import hashlib
import io
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from adapmoe.errors import CalibrationError
from adapmoe.machine.files import replace_file
from adapmoe.pack.manifest import manifest_sha256
from adapmoe.pack.sidecar import Sha256, Sidecar, read_sidecar, sidecar_bytes

FILE = "calibration.json"
GATE_FILE = "first_layer_gate.npy"
_FORMAT, _VERSION = "adapmoe-calibration", 1

Foreseen = list[float | None]  # one value per layer; None where there is no earlier layer


class Provenance(Struct, frozen=True):
    """What a measurement was made with."""

    text: str
    text_sha256: str
    windows: int
    window_tokens: int
    adapmoe: str


class Sensitivities(Provenance, frozen=True, kw_only=True):
    """What leaving experts out costs in each layer, measured by one method."""

    values: list[float]


class Trained(Struct, frozen=True):
    """How well the experts of layer 0 are foreseen, by four rules; the gate's file."""

    accuracy: float
    accuracy_with_embedding: float
    accuracy_of_router_on_embedding: float
    accuracy_of_most_frequent: float
    file: str = GATE_FILE
    sha256: Sha256 = "0" * 64  # until it is written


class Threshold(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The threshold of a gate that keeps the contract, and what it saves.

    Attributes:
        pays: false, and the threshold 0, where too few activations would be saved. Then neither
            the perplexity increase nor the share of gated steps is known.
        bytes_per_token: read while decoding with `memory_fraction` of the experts resident.
    """

    pays: bool
    threshold: float
    activations_saved: float
    perplexity_increase: float | None = None
    perplexity_increase_bound: float | None = None
    gated_steps: float | None = None
    bytes_per_token: float | None = None
    bytes_per_token_without: float | None = None


class Gating(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The contract, and the thresholds that keep it; `residency` where it was asked for."""

    method: str
    max_perplexity_increase: float
    sensitivity: Threshold
    residency: Threshold | None = None
    memory_fraction: float | None = None

    def threshold(self, mode: str) -> Threshold | None:
        """That of gating="sensitivity" or "residency"."""
        return self.residency if mode == "residency" else self.sensitivity


class Predictor(Struct, frozen=True):
    """Share of needed experts that looking ahead foresees: depth -> one value per layer.

    Attributes:
        as_is: from the MoE input as the source layer's norm left it.
        renormalized: from the hidden state put through the target layer's norm.
    """

    as_is: dict[int, Foreseen]
    renormalized: dict[int, Foreseen]


class Routing(Struct, frozen=True):
    """Per layer, over all windows.

    Attributes:
        expert_frequency: `[layers][experts]`, share of tokens that use the expert; a row sums to
            top_k.
        top1_share_above: share of tokens whose strongest expert weighs more than 0.6 to 0.9.
        consecutive_overlap: share of a token's experts that the next token uses too.
    """

    expert_frequency: list[list[float]]
    top1_share_above: dict[str, list[float]]
    consecutive_overlap: list[float]


class Calibration(Sidecar, kw_only=True):
    """Everything that was measured; README.md of `adapmoe.calibration` says how.

    Attributes:
        sensitivity: by method, "direct" and perhaps "fisher".
        rank_correlation: of the two methods; None where only one was measured.
        single_ratio: share of tokens that keep a single expert, per layer.
    """

    predictor: Predictor
    first_layer_gate: Trained
    sensitivity: dict[str, Sensitivities]
    rank_correlation: float | None
    gating: Gating
    single_ratio: list[float]
    routing: Routing
    provenance: Provenance

    def __post_init__(self) -> None:
        """Raise ValueError where a part refers to another that is not there."""
        if self.gating.method not in self.sensitivity:
            raise ValueError(f"`sensitivity` lacks the method {self.gating.method!r} of `gating`")
        if 1 not in self.predictor.as_is:
            raise ValueError("`predictor.as_is` lacks the depth 1")

    @property
    def chosen(self) -> list[float]:
        """The sensitivities that the thresholds belong to."""
        return self.sensitivity[self.gating.method].values


def read_calibration(pack: Path) -> Calibration:
    """The calibration of a pack.

    Raises:
        CalibrationError: there is none, or it is damaged, or of another pack or version.
    """
    path = pack / FILE
    again = f"adapmoe calibrate {pack} --text FILE"
    if not path.exists():
        raise CalibrationError(f"{path}: missing; this needs a calibration: {again}")
    return read_sidecar(
        path,
        pack,
        Calibration,
        (_FORMAT, _VERSION),
        subject="is the calibration",
        remedy=f"calibrate again: {again}",
        error=CalibrationError,
    )


def read_first_layer_gate(pack: Path, calibration: Calibration) -> NDArray[np.float32]:
    """The trained gate, float32 `[experts, hidden_size]`. Raises CalibrationError."""
    path = pack / GATE_FILE
    expected = calibration.first_layer_gate.sha256
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be read: {error.strerror}; calibrate the pack again"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise CalibrationError(
            f"{path}: SHA-256 is {found}, {FILE} says {expected}; calibrate the pack again"
        )
    gate: NDArray[np.float32] = np.load(io.BytesIO(data), allow_pickle=False)
    return gate


def write_calibration(
    pack: Path, calibration: Calibration, gate: NDArray[np.float32]
) -> Calibration:
    """Write both files, the one that names the other last.

    Returns:
        What calibration.json now says: `calibration` with the hashes of this pack and this gate.

    Raises:
        CalibrationError: a value is NaN or infinite, or the pack cannot be written to.
    """
    buffer = io.BytesIO()
    np.save(buffer, gate.astype(np.float32))
    data = buffer.getvalue()
    replaced = msgspec.structs.replace
    written = replaced(
        calibration,
        format=_FORMAT,
        format_version=_VERSION,
        manifest_sha256=manifest_sha256(pack),
        first_layer_gate=replaced(
            calibration.first_layer_gate,
            file=GATE_FILE,
            sha256=hashlib.sha256(data).hexdigest(),
        ),
    )
    try:
        text = sidecar_bytes(written)
    except ValueError as error:
        raise CalibrationError(
            f"{pack}: a measurement is NaN or infinite, so nothing was written; calibrate with "
            "another or a longer text"
        ) from error
    try:
        replace_file(pack / GATE_FILE, data)
        replace_file(pack / FILE, text)
    except OSError as error:
        raise CalibrationError(
            f"{error.filename or pack}: cannot write: {error.strerror}; "
            "calibrate a pack in a place that can be written to"
        ) from error
    return written
