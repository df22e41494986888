# SPDX-License-Identifier: Apache-2.0
"""What no runtime can beat: weights come from memory, and what is missed from the disk."""

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
    """Bytes per second; `direct`: whether the disk's figure is past the page cache."""

    memory_bytes_per_s: float
    disk_bytes_per_s: float
    direct: bool


def measure_bounds(pack: Path, manifest: Manifest, threads: int) -> Bounds:
    """Reads of memory by all threads; random experts from the disk, two outstanding."""
    memory = measure_memory(threads=threads, seconds=_SECONDS)
    disk, direct = read_experts(pack, manifest.experts, seconds=_SECONDS)
    return Bounds(memory, disk, direct)


def weight_bytes_per_token(manifest: Manifest) -> int:
    """Read from memory to decode a token: top_k experts per layer and all dense but one table."""
    experts = manifest.config.num_hidden_layers * manifest.config.num_experts_per_tok
    return weight_bytes_per_step(manifest, experts)


def weight_bytes_per_step(manifest: Manifest, experts: int) -> int:
    """Read from memory for a step that uses so many experts, all layers together."""
    tensors = manifest.dense.tensors
    dense = sum(tensor.bytes for tensor in tensors.values())
    if not manifest.config.tie_word_embeddings:
        dense -= tensors["model.embed_tokens.weight"].bytes
    return dense + experts * manifest.experts.expert_bytes


def fraction_of_bound(report: dict[str, Any], bounds: Bounds, weight_bytes: int) -> float:
    """Of a decoding run: the least time for its tokens over the time they took; 1 is perfect."""
    return _least_s(report["bytes_per_token"], bounds, weight_bytes) * report["tokens_per_s"]


def fraction_of_token_bound(report: dict[str, Any], bounds: Bounds, weight_bytes: int) -> float:
    """The same with each token's least time by itself: no token is read for before it is known."""
    each = [_least_s(read, bounds, weight_bytes) for read in report["bytes_of_tokens"]]
    return statistics.fmean(each) * report["tokens_per_s"]


def _least_s(bytes_read: float, bounds: Bounds, weight_bytes: int) -> float:
    return max(weight_bytes / bounds.memory_bytes_per_s, bytes_read / bounds.disk_bytes_per_s)
