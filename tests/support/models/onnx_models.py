# SPDX-License-Identifier: Apache-2.0
"""ONNX models run and read back for tests."""

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from support.packs.pack_reader import read_expert


def run_model(path, x):
    """y fp16 for x fp16, with the graph as it is written.

    With its optimisations onnxruntime replaces dequantisation and product by a kernel of its own
    that rounds activations to 8 bits; without them it computes every node as the model says, and
    accumulates fp16 products in float32.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return y


def constants(model):
    """{name: array} with 4-bit integers as int8."""
    found = {}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        int4 = tensor.data_type == onnx.TensorProto.INT4
        found[tensor.name] = array.astype(np.int8) if int4 else array
    return found


def reference(pack, layer, expert, x):
    """The expert in float64 from the pack's integers, read by the tests' own reader."""
    hidden = x.shape[1]
    gate, up, down = (matrix.astype(np.float64) for matrix in read_expert(pack, layer, expert))
    wide = np.zeros((len(x), gate.shape[1]))
    wide[:, :hidden] = x
    gate, up = wide @ gate.T, wide @ up.T
    inner = gate / (1 + np.exp(-gate)) * up
    return (inner @ down.T)[:, :hidden]


def relative_l2(found, wanted):
    found = np.asarray(found, np.float64)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
