# SPDX-License-Identifier: Apache-2.0
"""How well experts can be foreseen: by later routers, and by a trained gate for layer 0."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapmoe.calibration.gate_rule import select_experts
from adapmoe.calibration.probe import Captured, Ids, Probe
from adapmoe.pack.calibration import Predictor
from adapmoe.pack.manifest import ModelConfig
from adapmoe.pack.weights import DenseTensors

F32 = NDArray[np.float32]
DEPTHS = (1, 2, 3)


def recall(predicted: NDArray[np.int64], needed: NDArray[np.int64]) -> float:
    """Share of the needed experts that were predicted; both `[n, top_k]`."""
    found = (predicted[:, :, None] == needed[:, None, :]).any(axis=1)
    return float(found.mean())


class LookaheadScore:
    """Counts, window by window, how often looking 1 to 3 layers ahead is right."""

    def __init__(self, dense: DenseTensors, config: ModelConfig, top_k: int) -> None:
        """Read the routers and their norms."""
        self._layers, self._top_k = config.num_hidden_layers, top_k
        self._eps = config.rms_norm_eps
        names = [f"model.layers.{layer}." for layer in range(self._layers)]
        self._routers = [dense.rows(name + "block_sparse_moe.gate.weight") for name in names]
        self._norms = [dense.vector(name + "post_attention_layernorm.weight") for name in names]
        self._right = np.zeros((2, len(DEPTHS), self._layers))  # the fields of Predictor
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

    def accuracy(self) -> Predictor:
        """Share of the needed experts that were foreseen, so far."""
        as_is, renormalized = (
            {
                depth: [
                    float(share) if target >= depth else None
                    for target, share in enumerate(rows[d])
                ]
                for d, depth in enumerate(DEPTHS)
            }
            for rows in self._right / max(self._windows, 1)
        )
        return Predictor(as_is, renormalized)


def rms_norm(x: F32, weight: F32, eps: float) -> F32:
    """The model's norm of rows `[n, hidden_size]`."""
    mean_square = np.square(x).mean(axis=-1, keepdims=True)
    normed: F32 = x / np.sqrt(mean_square + np.float32(eps)) * weight
    return normed


@dataclass(frozen=True)
class Recorded:
    """One window of n tokens, float32.

    Attributes:
        ids: int32 `[n]`.
        router_logits: `[layers, n, experts]`.
        final_hidden: `[n, hidden_size]`, after the last norm.
    """

    ids: Ids
    router_logits: F32
    final_hidden: F32


def record(
    probe: Probe,
    windows: list[Ids],
    on_window: Callable[[int, int], None],
    score: LookaheadScore | None = None,
) -> list[Recorded]:
    """Run the windows; `score` sees the activations of each before they are forgotten."""
    recorded = []
    for done, ids in enumerate(windows, start=1):
        captured = probe.capture(ids)
        if score is not None:
            score.add(captured)
        recorded.append(Recorded(ids, captured.router_logits, captured.final_hidden))
        on_window(done, len(windows))
    return recorded


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
