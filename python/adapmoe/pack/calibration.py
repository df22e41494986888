# SPDX-License-Identifier: Apache-2.0
"""calibration.json and first_layer_gate.npy beside the pack they belong to."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import CalibrationError
from adapmoe.machine.files import read_json, replace_file
from adapmoe.pack.manifest import check_header, manifest_sha256

FILE = "calibration.json"
GATE_FILE = "first_layer_gate.npy"
_FORMAT, _VERSION = "adapmoe-calibration", 1


def read_calibration(pack: Path) -> dict[str, Any]:
    """The calibration of a pack.

    Raises:
        CalibrationError: there is none, or it is of another pack or version.
        PackError: it is no JSON object.
    """
    path = pack / FILE
    if not path.exists():
        raise CalibrationError(
            f"{path}: missing; this needs a calibration: adapmoe calibrate {pack} --text FILE"
        )
    found = read_json(path)
    again = f"calibrate again: adapmoe calibrate {pack} --text FILE"
    kind = (_FORMAT, _VERSION)
    subject = "is the calibration"
    check_header(found, path, pack, kind, subject=subject, remedy=again, error=CalibrationError)
    return found


def read_first_layer_gate(pack: Path, calibration: dict[str, Any]) -> NDArray[np.float32]:
    """The trained gate, float32 `[experts, hidden_size]`. Raises CalibrationError."""
    path = pack / GATE_FILE
    expected = calibration["first_layer_gate"]["sha256"]
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
    pack: Path, calibration: dict[str, Any], gate: NDArray[np.float32]
) -> dict[str, Any]:
    """Write both files, the one that names the other last.

    Returns:
        What calibration.json now says: `calibration` with format, hashes and the gate's file name.

    Raises:
        CalibrationError: a value is NaN or infinite, or the pack cannot be written to.
    """
    buffer = io.BytesIO()
    np.save(buffer, gate.astype(np.float32))
    data = buffer.getvalue()
    named = {"file": GATE_FILE, "sha256": hashlib.sha256(data).hexdigest()}
    written = {
        **calibration,
        "format": _FORMAT,
        "format_version": _VERSION,
        "manifest_sha256": manifest_sha256(pack),
        "first_layer_gate": calibration["first_layer_gate"] | named,
    }
    try:
        text = json.dumps(written, indent=1, sort_keys=True, allow_nan=False) + "\n"
    except ValueError as error:
        raise CalibrationError(
            f"{pack}: a measurement is NaN or infinite, so nothing was written; calibrate with "
            "another or a longer text"
        ) from error
    try:
        replace_file(pack / GATE_FILE, data)
        replace_file(pack / FILE, text.encode())
    except OSError as error:
        raise CalibrationError(
            f"{error.filename or pack}: cannot write: {error.strerror}; "
            "calibrate a pack in a place that can be written to"
        ) from error
    return written
