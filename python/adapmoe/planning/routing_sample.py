# SPDX-License-Identifier: Apache-2.0
"""A sample of how a model routes, as a trace: from a text, or from calibration's statistics."""

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adapmoe.calibration.gate_rule import select_experts
from adapmoe.core_types import RoutingVisit
from adapmoe.pack.manifest import PackGeometry
from adapmoe.tracing.trace import Trace

if TYPE_CHECKING:
    from adapmoe.llm import LLM


_SEED = 20240814
_CHUNK = 64


def sample_from_text(
    llm: "LLM",
    geometry: PackGeometry,
    ids: NDArray[np.int32],
    *,
    seconds: float = 10.0,
) -> Trace:
    """Route a text and write down what decoding it token by token would have needed.

    The prompt path computes many tokens with one read of each expert, so this is much faster than
    decoding, and it routes the same: the same bits come out of both.

    Args:
        llm: a model with a free sequence.
        geometry: of its pack.
        ids: int32 `[n]`; what does not fit into the context is routed in pieces of that length.
        seconds: no further chunk is begun after this time.
    """
    deadline = time.perf_counter() + seconds
    chosen = []
    chunk = min(_CHUNK, llm.max_context)
    with llm.new_sequence() as sequence:
        for begin in range(0, len(ids), chunk):
            if sequence.length + chunk > llm.max_context:
                sequence.reset()
            logits = sequence.capture(ids[begin : begin + chunk])["router_logits"]
            chosen.append(select_experts(logits, geometry.top_k))
            if time.perf_counter() > deadline:
                break
    return _as_trace(geometry, np.concatenate(chosen, axis=1).swapaxes(0, 1))


def sample_from_statistics(
    geometry: PackGeometry,
    frequency: NDArray[np.float64],
    overlap: NDArray[np.float64],
    *,
    tokens: int = 512,
) -> Trace:
    """Draw routing with given frequencies in which consecutive tokens share as much as measured.

    Args:
        geometry: of the pack.
        frequency: float64 `[num_layers, num_experts]`, share of tokens that use each expert.
        overlap: float64 `[num_layers]`, share of a token's experts that the next one uses too.
        tokens: how many to draw.
    """
    rng = np.random.default_rng(_SEED)
    layers, k = geometry.num_layers, geometry.top_k
    chosen = np.empty((tokens, layers, k), np.int64)
    for layer in range(layers):
        weights = frequency[layer] / frequency[layer].sum()
        keep = _keep_probability(weights, float(overlap[layer]), k, rng)
        now = rng.choice(geometry.num_experts, k, replace=False, p=weights)
        for token in range(tokens):
            now = _next_experts(now, weights, keep, rng)
            chosen[token, layer] = now
    return _as_trace(geometry, chosen)


def _next_experts(
    now: NDArray[np.int64], weights: NDArray[np.float64], keep: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Each expert stays with probability `keep`; the rest is drawn by weight."""
    kept = now[rng.random(len(now)) < keep]
    if len(kept) == len(now):
        return now
    free = weights.copy()
    free[kept] = 0.0
    missing = len(now) - len(kept)
    if np.count_nonzero(free) < missing:  # experts that were never seen
        free = np.ones_like(weights)
        free[kept] = 0.0
    drawn = rng.choice(len(weights), missing, replace=False, p=free / free.sum())
    return np.concatenate([kept, drawn])


def _keep_probability(
    weights: NDArray[np.float64], overlap: float, k: int, rng: np.random.Generator
) -> float:
    """What to keep on purpose so that, with what is drawn again by chance, `overlap` comes out."""
    samples = [rng.choice(len(weights), k, replace=False, p=weights) for _ in range(64)]
    chance = float(np.mean([np.isin(a, b).mean() for a in samples[:32] for b in samples[32:]]))
    return min(max((overlap - chance) / (1.0 - chance), 0.0), 1.0) if chance < 1.0 else 1.0


def _as_trace(geometry: PackGeometry, chosen: NDArray[np.int64]) -> Trace:
    """`chosen`: `[tokens, layers, top_k]`."""
    visits = [
        RoutingVisit(token, layer, experts)
        for token, rows in enumerate(np.sort(chosen, axis=-1).tolist())
        for layer, experts in enumerate(rows)
    ]
    return Trace(geometry, visits)
