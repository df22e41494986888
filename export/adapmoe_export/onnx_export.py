# SPDX-License-Identifier: Apache-2.0
"""Writes the ONNX models of a pack's experts beside it, one in memory at a time."""

import hashlib
import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.errors import EngineError, ReadError
from adapmoe.machine.files import file_sha256, locked_folder, replace_file
from adapmoe.pack.onnx_models import (
    FOLDER,
    INPUT,
    OUTPUT,
    OnnxModel,
    model_file,
    read_onnx_models,
    write_onnx_models,
)
from adapmoe.pack.weights import ExpertMatrix, ExpertReader, ExpertWeights
from adapmoe_export.errors import ExportError

OPSET = 21  # the first with 4-bit integers and blocks
_IR_VERSION = 10  # the one that came with it
_MAX_MODEL_BYTES = (1 << 31) - 1  # limit of a protobuf message

Progress = Callable[[int, int], None]  # (models in place so far, models in all)


@dataclass(frozen=True)
class OnnxSummary:
    """What is in the folder."""

    folder: str
    models: int
    kept: int  # of them, those that an earlier run wrote and that are intact
    bytes: int  # of all models


def import_onnx() -> ModuleType:
    """The package onnx. Raises ExportError, naming the extra, where it is not installed."""
    try:
        return importlib.import_module("onnx")
    except ModuleNotFoundError as error:
        raise ExportError(
            f"--onnx needs the Python package {error.name!r}, which is missing: "
            "pip install 'adapmoe[onnx]'"
        ) from error


def export_onnx(pack: Path, *, progress: Progress | None = None) -> OnnxSummary:
    """Write `pack`/onnx: one model per expert and the list of them, onnx.json.

    A model that is listed and whose SHA-256 matches is kept, so that an interrupted run can resume.
    Raises PackError, ReadError, and ExportError: onnx is not installed, groups do not divide
    hidden_size, another run is writing, or the folder cannot be written to.
    """
    reader = ExpertReader(pack)
    metadata = {"manifest_sha256": reader.manifest.sha256}
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
            f"kept, resume with: adapmoe export {pack} --onnx"
        ) from error


def _write_all(
    pack: Path, folder: Path, reader: ExpertReader, graph: "OnnxGraph", progress: Progress
) -> OnnxSummary:
    before: dict[tuple[int, int], OnnxModel] = {}
    with suppress(EngineError):  # nothing that could be kept
        before = read_onnx_models(pack, folder)
    models: list[OnnxModel] = []
    kept = 0
    ids = reader.manifest.expert_ids
    for layer, expert in ids:
        progress(len(models), len(ids))
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


class OnnxGraph:
    """Makes the models of one pack.

    The weights are constants: the pack's own integers and scales. One group of the pack is one
    block of DequantizeLinear, which TensorRT fuses into its INT4 matrix products. Matrices are
    stored as `[in, out]`, so a product is a plain MatMul.
    """

    def __init__(
        self, hidden_size: int, dtype: str, group_size: int, metadata: dict[str, str]
    ) -> None:
        """`dtype` and `group_size` of the pack's experts; `metadata` goes into every model.

        Raises ExportError: onnx is not installed, or groups do not divide hidden_size.
        """
        self._onnx = import_onnx()
        if dtype in ("int4", "int8") and hidden_size % group_size:
            raise ExportError(
                f"hidden_size {hidden_size} is no multiple of the group size {group_size}, as "
                "TensorRT wants it: export the pack again with a --group-size that divides it"
            )
        self._hidden_size = hidden_size
        self._dtype = dtype
        self._group_size = group_size
        self._metadata = metadata
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def serialize(self, weights: ExpertWeights, layer: int, expert: int) -> bytes:
        """The model: x fp16 [rows, hidden_size] to y fp16 [rows, hidden_size].

        The same weights give the same bytes. Raises ExportError for more than 2 GiB.
        """
        helper, types = self._onnx.helper, self._onnx.TensorProto
        self._nodes, self._constants = [], []
        x, y, wide = INPUT, OUTPUT, self._dtype == "f32"
        if wide:
            x, y = self._node("Cast", INPUT, output="x_f32", to=types.FLOAT), "y_f32"
        gate = self._multiply(x, "gate_proj", weights.gate_proj)
        up = self._multiply(x, "up_proj", weights.up_proj)
        silu = self._node("Mul", gate, self._node("Sigmoid", gate, output="sigmoid"), output="silu")
        inner = self._node("Mul", silu, up, output="inner")
        self._multiply(inner, "down_proj", weights.down_proj, output=y)
        if wide:
            self._node("Cast", y, output=OUTPUT, to=types.FLOAT16)
        shape = ["rows", self._hidden_size]
        graph = helper.make_graph(
            self._nodes,
            f"layer{layer}-expert{expert}",
            [helper.make_tensor_value_info(INPUT, types.FLOAT16, shape)],
            [helper.make_tensor_value_info(OUTPUT, types.FLOAT16, shape)],
            self._constants,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="adapmoe",
            producer_version=_core.__version__,
        )
        identity = {"layer": str(layer), "expert": str(expert)}
        helper.set_model_props(model, self._metadata | identity)
        return self._checked_bytes(model, layer, expert)

    def _checked_bytes(self, model: Any, layer: int, expert: int) -> bytes:
        if model.ByteSize() > _MAX_MODEL_BYTES:
            raise ExportError(
                f"the ONNX model of expert {expert} in layer {layer} has {model.ByteSize()} bytes, "
                f"the format holds {_MAX_MODEL_BYTES}: export the pack with --experts int4 or int8"
            )
        data: bytes = model.SerializeToString(deterministic=True)
        self._onnx.checker.check_model(data, full_check=True)
        return data

    def _node(self, operator: str, *inputs: str, output: str, **attributes: Any) -> str:
        node = self._onnx.helper.make_node(operator, inputs, [output], name=output, **attributes)
        self._nodes.append(node)
        return output

    def _multiply(self, x: str, name: str, matrix: ExpertMatrix, output: str = "") -> str:
        """Add `x W^T`; its result has the name of the matrix unless it is given another."""
        types = self._onnx.TensorProto
        columns = np.ascontiguousarray(matrix.quants.T)
        if matrix.scales is None:
            kind = types.FLOAT if self._dtype == "f32" else types.FLOAT16
            weight = self._constant(f"{name}.weight", kind, columns.shape, columns)
        else:
            int4 = self._dtype == "int4"
            kind, data = (types.INT4, pack_int4(columns)) if int4 else (types.INT8, columns)
            quants = self._constant(f"{name}.quants", kind, columns.shape, data)
            scales = np.ascontiguousarray(matrix.scales.T)
            scale = self._constant(f"{name}.scales", types.FLOAT16, scales.shape, scales)
            weight = self._node(
                "DequantizeLinear",
                quants,
                scale,
                output=f"{name}.weight",
                axis=0,
                block_size=self._group_size,
            )
        return self._node("MatMul", x, weight, output=output or name)

    def _constant(self, name: str, kind: int, shape: tuple[int, ...], data: NDArray[Any]) -> str:
        tensor = self._onnx.helper.make_tensor(name, kind, shape, data.tobytes(), raw=True)
        self._constants.append(tensor)
        return name


def pack_int4(quants: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two's complement nibbles as ONNX stores them: of two neighbours, the first is the low one.

    REQUIRES: an even number of elements.
    """
    pairs = quants.reshape(-1, 2).view(np.uint8)
    return np.asarray(pairs[:, 0] & 15 | pairs[:, 1] << 4, np.uint8)
