# SPDX-License-Identifier: Apache-2.0
"""The bound that no runtime can beat: weights come from memory, and misses from the disk."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapmoe.bench.rounds import read_experts
from adapmoe.machine.bandwidth import measure_memory
from adapmoe.pack.manifest import Manifest

_SECONDS = 2.0  # of each measurement


@dataclass(frozen=True)
class Bounds:
    """Bytes per second; `direct`: whether the disk was measured past the page cache."""

    memory_bytes_per_s: float
    disk_bytes_per_s: float
    direct: bool


def measure_bounds(pack: Path, manifest: Manifest, threads: int) -> Bounds:
    """Measure memory with all threads, and the disk with random experts, two at a time."""
    memory = measure_memory(threads=threads, seconds=_SECONDS)
    disk, direct = read_experts(pack, manifest.experts, seconds=_SECONDS)
    return Bounds(memory, disk, direct)


def weight_bytes_per_token(manifest: Manifest) -> int:
    """Bytes of a decoded token: top_k experts per layer, and dense weights but the embedding."""
    experts = manifest.config.num_hidden_layers * manifest.config.num_experts_per_tok
    return weight_bytes_per_step(manifest, experts)


def weight_bytes_per_step(manifest: Manifest, experts: int) -> int:
    """Bytes read from memory by a step that uses so many experts in all layers together."""
    tensors = manifest.dense.tensors
    dense = sum(tensor.bytes for tensor in tensors.values())
    if not manifest.config.tie_word_embeddings:
        dense -= tensors["model.embed_tokens.weight"].bytes
    return dense + experts * manifest.experts.expert_bytes


def fraction_of_bound(report: dict[str, Any], bounds: Bounds, weight_bytes: int) -> float:
    """The least time for a run's tokens over the time they took; 1 is perfect."""
    return _least_s(report["bytes_per_token"], bounds, weight_bytes) * report["tokens_per_s"]


def fraction_of_token_bound(report: dict[str, Any], bounds: Bounds, weight_bytes: int) -> float:
    """The same, bounding each token by itself: nothing can be read for it before it is known."""
    each = [_least_s(read, bounds, weight_bytes) for read in report["bytes_of_tokens"]]
    return statistics.fmean(each) * report["tokens_per_s"]


def _least_s(bytes_read: float, bounds: Bounds, weight_bytes: int) -> float:
    return max(weight_bytes / bounds.memory_bytes_per_s, bytes_read / bounds.disk_bytes_per_s)
