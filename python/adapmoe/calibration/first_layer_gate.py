# SPDX-License-Identifier: Apache-2.0
"""A linear map from the last hidden state to the next token's experts in the first layer.

No earlier layer looks ahead to layer 0. What the model was about to say does: after a step its last
hidden state is known while the next token is still being sampled.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapmoe.calibration.dense_tensors import DenseTensors
from adapmoe.calibration.gate_rule import select_experts
from adapmoe.calibration.lookahead import recall, rms_norm
from adapmoe.calibration.recorded import Recorded

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_RIDGE = 1e-2  # relative to the mean squared activation


@dataclass(frozen=True)
class FirstLayerGate:
    """What was trained, and the share of needed experts that it predicts on held-out windows.

    Attributes:
        weights: float32 `[experts, hidden_size]`; the top_k largest products are the prediction.
        accuracy: of these weights on the last hidden state.
        refined_accuracy: trained with the embedding of the token that was sampled as well.
        router_accuracy: of layer 0's own router on that embedding, put through the layer's norm.
        frequency_accuracy: of always saying the most frequent experts.
    """

    weights: F32
    accuracy: float
    refined_accuracy: float
    router_accuracy: float
    frequency_accuracy: float


@dataclass(frozen=True)
class _Pairs:
    """Rows of x with the experts `[n, top_k]` that the following token used in layer 0."""

    hidden: F32
    embedding: F32
    experts: NDArray[np.int64]


def train_first_layer_gate(
    fit: list[Recorded],
    held_out: list[Recorded],
    dense: DenseTensors,
    top_k: int,
    rms_norm_eps: float,
) -> FirstLayerGate:
    """Ridge regression of "expert e is used next" on `fit`, judged on `held_out`."""
    train, test = (_pairs(windows, dense, top_k) for windows in (fit, held_out))
    count = fit[0].router_logits.shape[-1]
    used = (train.experts[..., None] == np.arange(count)).any(axis=1).astype(np.float64)
    frequent = np.argsort(-used.sum(axis=0), kind="stable")[:top_k]
    weights = _ridge(train.hidden, used)
    both = _ridge(np.hstack([train.hidden, train.embedding]), used)
    layer = "model.layers.0."
    router = dense.rows(layer + "block_sparse_moe.gate.weight")
    norm = dense.vector(layer + "post_attention_layernorm.weight")
    return FirstLayerGate(
        weights,
        _accuracy(weights, test.hidden, test.experts),
        _accuracy(both, np.hstack([test.hidden, test.embedding]), test.experts),
        _accuracy(router, rms_norm(test.embedding, norm, rms_norm_eps), test.experts),
        recall(np.broadcast_to(frequent, test.experts.shape), test.experts),
    )


def _pairs(windows: list[Recorded], dense: DenseTensors, top_k: int) -> _Pairs:
    following = np.concatenate([w.ids[1:] for w in windows])
    logits = np.concatenate([w.router_logits[0, 1:] for w in windows])
    return _Pairs(
        np.concatenate([w.final_hidden[:-1] for w in windows]),
        dense.rows("model.embed_tokens.weight", following),
        select_experts(logits, top_k),
    )


def _ridge(x: F32, y: F64) -> F32:
    """Weights `[outputs, features]` without a bias, because the runtime's score map has none."""
    wide = x.astype(np.float64)
    scale = np.sqrt(np.square(wide).mean(axis=0) + 1e-12)  # hidden and embedding differ in size
    wide /= scale
    gram = wide.T @ wide + _RIDGE * len(wide) * np.eye(wide.shape[1])
    return np.asarray(np.linalg.solve(gram, wide.T @ y).T / scale, np.float32)


def _accuracy(weights: F32, x: F32, experts: NDArray[np.int64]) -> float:
    return recall(select_experts(x @ weights.T, experts.shape[1]), experts)
