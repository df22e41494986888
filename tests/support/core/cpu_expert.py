# SPDX-License-Identifier: Apache-2.0
"""One expert of a pack through the kernels of the CPU backend, tile after tile as it runs them."""

import numpy as np
from safetensors import safe_open

from adapmoe import _testing
from support.packs.pack_reader import packed_bytes, read_manifest


class CpuExpert:
    """Kernels of the name given; the backend's own default is the last of `kernel_names()`."""

    def __init__(self, pack, kernels=None):
        self.kernels = kernels or _testing.kernel_names()[-1]
        self.pack = pack
        self.manifest = read_manifest(pack)
        quantization = self.manifest["quantization"]["experts"]
        self.dtype, self.group = quantization["dtype"], quantization["group_size"]

    def evaluate(self, layer, expert, x):
        """x float32 [n, hidden_size] to float32 [n, hidden_size]."""
        hidden, width = x.shape[1], self.manifest["experts"]["tile_width"]
        with safe_open(self.pack / "experts.safetensors", "numpy") as file:
            record = file.get_tensor(f"model.layers.{layer}.block_sparse_moe.experts.{expert}")
        shapes = ((width, hidden), (width, hidden), (hidden, width))
        ends = np.cumsum([packed_bytes(*shape, self.dtype, self.group) for shape in shapes])
        activations = self._quantize(x)
        y = np.zeros((len(x), -(-hidden // 16) * 16), np.float32)
        for tile in record.reshape(self.manifest["experts"]["tiles"], -1):
            gate_proj, up_proj, down_proj = np.split(tile[: ends[-1]], ends[:-1])
            gate, up = (np.zeros((len(x), width), np.float32) for _ in range(2))
            self._multiply(gate_proj, activations, gate)
            self._multiply(up_proj, activations, up)
            inner = _testing.swiglu(self.kernels, gate.ravel(), up.ravel()).reshape(gate.shape)
            self._multiply(down_proj, self._quantize(inner), y)
        return y[:, :hidden]

    def _quantize(self, x):
        """The arguments that a block takes: integers, scales and sums, or plain floats."""
        if self.dtype in ("f16", "f32"):
            return (np.ascontiguousarray(x, np.float32),)
        flat = np.ascontiguousarray(x, np.float32).ravel()
        parts = _testing.quantize(self.kernels, flat, self.group)
        return tuple(part.reshape(len(x), -1) for part in parts)

    def _multiply(self, matrix, activations, y):
        """Add to y [n, rows] in place."""
        blocks = matrix.reshape(y.shape[1] // 16, -1)
        block = _testing.block_float if len(activations) == 1 else _testing.block_quantized
        for index, data in enumerate(blocks):
            part = y[:, 16 * index : 16 * index + 16]
            block(self.kernels, self.dtype, data, *activations, None, part, True)
