# SPDX-License-Identifier: Apache-2.0
"""The gating rule on recorded router logits; the runtime's own is runtime/gate/gate.cc."""

import numpy as np
from numpy.typing import NDArray

from adapmoe.pack.manifest import Router

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def select_experts(router_logits: F32, top_k: int) -> NDArray[np.int64]:
    """The `top_k` best experts of `[..., experts]`, strongest first, ties to the lower index."""
    order: NDArray[np.int64] = np.argsort(-router_logits, axis=-1, kind="stable")[..., :top_k]
    return order


def expert_shares(router_logits: F32, router: Router) -> F64:
    """Each selected expert's share of the weight, float64 `[..., top_k]`, strongest first."""
    chosen = select_experts(router_logits, router.top_k)
    logits = np.take_along_axis(router_logits, chosen, axis=-1).astype(np.float64)
    if router.score == "sigmoid":
        scores = 1 / (1 + np.exp(-logits))
    else:
        scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: F64 = scores / scores.sum(axis=-1, keepdims=True)
    return shares


def drop_costs(shares: F64, sensitivity: F64) -> F64:
    """The threshold above which each expert but the strongest is dropped.

    Args:
        shares: `[layers, n, top_k]`, strongest first.
        sensitivity: `[layers]`.

    Returns:
        `[layers, n, top_k - 1]`, strongest first: an expert goes together with all weaker ones.
    """
    together = np.cumsum(shares[..., :0:-1], axis=-1)[..., ::-1]
    costs: F64 = sensitivity[:, None, None] * together**2
    return costs


def single_expert_ratio(shares: F64, sensitivity: F64, threshold: float) -> NDArray[np.float64]:
    """Share of tokens that keep one expert only, float64 `[layers]`."""
    costs = drop_costs(shares, sensitivity)
    ratio: F64 = (costs < threshold).all(axis=-1).mean(axis=-1)
    return ratio
