# SPDX-License-Identifier: Apache-2.0
"""One expert as an ONNX model that holds the pack's own integers and scales.

The weights are constants and one group of the pack is one block of DequantizeLinear, which is what
TensorRT fuses into its INT4 matrix products. Matrices are stored as `[in, out]`, so that a product
is a plain MatMul.
"""

import importlib
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.pack.onnx_models import INPUT, OUTPUT
from adapmoe.pack.weights import ExpertMatrix, ExpertWeights
from adapmoe_export.errors import ExportError

OPSET = 21  # the first with 4-bit integers and blocks
_IR_VERSION = 10  # the one that came with it
_MOST_BYTES = (1 << 31) - 1  # of a protobuf message


def import_onnx() -> ModuleType:
    """The package onnx. Raises ExportError, naming the extra, where it is not installed."""
    try:
        return importlib.import_module("onnx")
    except ModuleNotFoundError as error:
        raise ExportError(
            f"--onnx needs the Python package {error.name!r}, which is missing: "
            "pip install 'adapmoe[onnx]'"
        ) from error


class OnnxGraph:
    """Makes the models of one pack."""

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
        if model.ByteSize() > _MOST_BYTES:
            raise ExportError(
                f"the ONNX model of expert {expert} in layer {layer} has {model.ByteSize()} bytes, "
                f"the format holds {_MOST_BYTES}: export the pack with --experts int4 or int8"
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
