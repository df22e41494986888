# SPDX-License-Identifier: Apache-2.0
"""How well a layer's MoE input, put into later layers' routers, tells their experts."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe.calibration.dense_tensors import DenseTensors
from adapmoe.calibration.gate_rule import select_experts
from adapmoe.calibration.probe import Captured

F32 = NDArray[np.float32]
DEPTHS = (1, 2, 3)
KINDS = ("as_is", "renormalized")


def recall(predicted: NDArray[np.int64], needed: NDArray[np.int64]) -> float:
    """Share of the needed experts that were predicted; both `[n, top_k]`."""
    found = (predicted[:, :, None] == needed[:, None, :]).any(axis=1)
    return float(found.mean())


class LookaheadScore:
    """Counts, window by window, how often looking 1 to 3 layers ahead is right."""

    def __init__(self, dense: DenseTensors, config: dict[str, Any], top_k: int) -> None:
        """Read the routers and their norms."""
        self._layers, self._top_k = config["num_hidden_layers"], top_k
        self._eps = config["rms_norm_eps"]
        names = [f"model.layers.{layer}." for layer in range(self._layers)]
        self._routers = [dense.rows(name + "block_sparse_moe.gate.weight") for name in names]
        self._norms = [dense.vector(name + "post_attention_layernorm.weight") for name in names]
        self._right = np.zeros((len(KINDS), len(DEPTHS), self._layers))
        self._windows = 0

    def add(self, captured: Captured) -> None:
        """Count a window; all windows weigh the same."""
        self._windows += 1
        for target in range(1, self._layers):
            needed = select_experts(captured.router_logits[target], self._top_k)
            for d, depth in enumerate(DEPTHS[:target]):
                hidden = captured.hidden[target - depth]
                inputs = (
                    captured.moe_input[target - depth],
                    rms_norm(hidden, self._norms[target], self._eps),
                )
                for kind, x in enumerate(inputs):
                    predicted = select_experts(x @ self._routers[target].T, self._top_k)
                    self._right[kind, d, target] += recall(predicted, needed)

    def accuracy(self) -> dict[str, dict[str, list[float | None]]]:
        """Share of the needed experts that were foreseen.

        Returns:
            "as_is": the MoE input as the source layer's norm left it; "renormalized": the hidden
            state put through the target layer's norm. Each: depth -> one value per target layer,
            None where there is no source layer.
        """
        mean = self._right / max(self._windows, 1)
        return {
            kind: {
                str(depth): [
                    float(share) if target >= depth else None
                    for target, share in enumerate(mean[k, d])
                ]
                for d, depth in enumerate(DEPTHS)
            }
            for k, kind in enumerate(KINDS)
        }


def rms_norm(x: F32, weight: F32, eps: float) -> F32:
    """The model's norm of rows `[n, hidden_size]`."""
    mean_square = np.square(x).mean(axis=-1, keepdims=True)
    normed: F32 = x / np.sqrt(mean_square + np.float32(eps)) * weight
    return normed
