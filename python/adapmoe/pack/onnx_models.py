# SPDX-License-Identifier: Apache-2.0
"""`onnx/` beside the pack it was made from: one model per expert, listed in onnx.json."""

from pathlib import Path

from msgspec import Struct

from adapmoe.errors import EngineError
from adapmoe.pack.manifest import manifest_sha256
from adapmoe.pack.sidecar import Count, Sha256, Sidecar, read_sidecar, write_sidecar

FOLDER = "onnx"
FILE = "onnx.json"
INPUT, OUTPUT = "x", "y"  # fp16 [rows, hidden_size] each
MAX_ROWS = 16
_FORMAT, _VERSION = "adapmoe-onnx", 1


class OnnxModel(Struct, frozen=True, forbid_unknown_fields=True):
    """The model of one expert, as onnx.json lists it."""

    layer: Count
    expert: Count
    file: str  # in the same folder
    bytes: Count
    sha256: Sha256

    def __post_init__(self) -> None:
        """Raise ValueError for a file name that leads out of the folder, or to another expert."""
        if self.file != model_file(self.layer, self.expert):
            raise ValueError(f"`file` is not {model_file(self.layer, self.expert)}")


class _Models(Sidecar, kw_only=True, forbid_unknown_fields=True):
    models: list[OnnxModel]


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
    if not path.exists():
        raise EngineError(f"{path}: missing; {again}")
    found = read_sidecar(
        path, pack, _Models, (_FORMAT, _VERSION), subject="is", remedy=again, error=EngineError
    )
    by_key = {(model.layer, model.expert): model for model in found.models}
    if len(by_key) < len(found.models):
        raise EngineError(f"{path}: an expert is listed twice; {again}")
    return by_key


def write_onnx_models(pack: Path, folder: Path, models: list[OnnxModel]) -> None:
    """Replace onnx.json. Raises OSError."""
    found = _Models(
        format=_FORMAT,
        format_version=_VERSION,
        manifest_sha256=manifest_sha256(pack),
        models=models,
    )
    write_sidecar(folder / FILE, found)
