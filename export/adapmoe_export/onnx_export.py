# SPDX-License-Identifier: Apache-2.0
"""Writes the ONNX models of a pack's experts beside it, one in memory at a time."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from adapmoe.errors import EngineError, ReadError
from adapmoe.expert_weights import ExpertReader
from adapmoe.files import file_sha256, locked_folder, replace_file
from adapmoe.geometry import manifest_sha256
from adapmoe.onnx_sidecar import (
    FOLDER,
    OnnxModel,
    model_file,
    read_onnx_models,
    write_onnx_models,
)
from adapmoe_export.errors import ExportError
from adapmoe_export.onnx_graph import OnnxGraph

Progress = Callable[[int, int], None]  # (models in place so far, models in all)


@dataclass(frozen=True)
class OnnxSummary:
    """What is in the folder."""

    folder: str
    models: int
    kept: int  # of them, those that an earlier run wrote and that are intact
    bytes: int  # of all models


def export_onnx(pack: Path, *, progress: Progress | None = None) -> OnnxSummary:
    """Write `pack`/onnx: one model per expert and the list of them, onnx.json.

    A model that is listed and whose SHA-256 matches is kept, so that an interrupted run goes on.
    Raises PackError, ReadError, and ExportError: onnx is not installed, groups do not divide
    hidden_size, another run is writing, or the folder cannot be written to.
    """
    reader = ExpertReader(pack)
    metadata = {"manifest_sha256": manifest_sha256(pack)}
    graph = OnnxGraph(reader.hidden_size, reader.dtype, reader.group_size, metadata)
    folder = pack / FOLDER
    try:
        with locked_folder(folder):
            return _write_all(pack, folder, reader, graph, progress or (lambda done, total: None))
    except ReadError:
        raise
    except BlockingIOError as error:
        raise ExportError(f"{folder}: another export is writing there; wait for it") from error
    except OSError as error:
        raise ExportError(
            f"{error.filename or folder}: cannot write: {error.strerror}; what is finished is "
            f"kept, to go on: adapmoe export {pack} --onnx"
        ) from error


def _write_all(
    pack: Path, folder: Path, reader: ExpertReader, graph: OnnxGraph, progress: Progress
) -> OnnxSummary:
    before: dict[tuple[int, int], OnnxModel] = {}
    with suppress(EngineError):  # nothing that could be kept
        before = read_onnx_models(pack, folder)
    models: list[OnnxModel] = []
    kept = 0
    for layer, expert in reader.ids:
        progress(len(models), len(reader.ids))
        model = before.get((layer, expert))
        if model is not None and _is_intact(folder, model):
            kept += 1
            models.append(model)
            continue
        data = graph.serialize(reader.read(layer, expert), layer, expert)
        file, digest = model_file(layer, expert), hashlib.sha256(data).hexdigest()
        replace_file(folder / file, data)
        models.append(OnnxModel(layer, expert, file, len(data), digest))
        rest = [model for key, model in before.items() if key > (layer, expert)]
        write_onnx_models(pack, folder, models + rest)
    write_onnx_models(pack, folder, models)
    progress(len(models), len(models))
    return OnnxSummary(str(folder), len(models), kept, sum(model.bytes for model in models))


def _is_intact(folder: Path, model: OnnxModel) -> bool:
    path = folder / model.file
    return path.is_file() and file_sha256(path) == model.sha256
