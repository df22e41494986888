# SPDX-License-Identifier: Apache-2.0
"""`onnx/` beside the pack it was made from: one model per expert, listed in onnx.json."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapmoe.errors import EngineError
from adapmoe.machine.files import replace_file
from adapmoe.pack.manifest import check_header, manifest_sha256

FOLDER = "onnx"
FILE = "onnx.json"
INPUT, OUTPUT = "x", "y"  # fp16 [rows, hidden_size] each
MAX_ROWS = 16
_FORMAT, _VERSION = "adapmoe-onnx", 1
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class OnnxModel:
    """The model of one expert, as onnx.json lists it."""

    layer: int
    expert: int
    file: str  # in the same folder
    bytes: int
    sha256: str


def model_file(layer: int, expert: int) -> str:
    """The name of an expert's model."""
    return f"layer{layer}-expert{expert}.onnx"


def read_onnx_models(pack: Path, folder: Path) -> dict[tuple[int, int], OnnxModel]:
    """What `folder` lists, by (layer, expert); the files themselves are not looked at.

    Raises:
        EngineError: there is no list, or it is damaged, of another pack or version.
    """
    path = folder / FILE
    again = f"make it: adapmoe export {pack} --onnx"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise EngineError(f"{path}: missing; {again}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{path}: cannot be read as JSON: {error}; {again}") from error
    kind = (_FORMAT, _VERSION)
    check_header(found, path, pack, kind, subject="is", remedy=again, error=EngineError)
    try:
        models = [_model(entry) for entry in found["models"]]
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{path}: a model is not listed as it should be; {again}") from error
    return {(model.layer, model.expert): model for model in models}


def write_onnx_models(pack: Path, folder: Path, models: list[OnnxModel]) -> None:
    """Replace onnx.json. Raises OSError."""
    found = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "manifest_sha256": manifest_sha256(pack),
        "models": [asdict(model) for model in models],
    }
    replace_file(
        folder / FILE,
        (json.dumps(found, indent=1, sort_keys=True, allow_nan=False) + "\n").encode(),
    )


def _model(entry: dict[str, Any]) -> OnnxModel:
    model = OnnxModel(**entry)
    counts = (model.layer, model.expert, model.bytes)
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError(entry)
    # A list may not lead out of its folder.
    if model.file != model_file(model.layer, model.expert) or not _HEX.fullmatch(model.sha256):
        raise ValueError(entry)
    return model
