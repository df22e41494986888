# SPDX-License-Identifier: Apache-2.0
"""One run of a workload."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapmoe.bench.workload import Workload
from adapmoe.stats import peak_rss_bytes

if TYPE_CHECKING:
    from adapmoe.llm import LLM


@dataclass(frozen=True)
class Measurement:
    """Of the measured decode steps, except for the two that say otherwise.

    Attributes:
        decode_tokens_per_s: by the wall clock.
        prefill_tokens_per_s: of the prompt.
        compute_s_per_token: the core's time without waiting for experts.
        activations_per_token: routed (layer, expert) pairs.
        bytes_per_token: read from the pack.
        hit_rate: share of expert visits that found all tiles resident, 0 to 1.
        stall_share: share of the time spent waiting for experts, 0 to 1.
        stall_ms_per_token: the same per token.
        first_layer_stall_ms: of it, in layer 0.
        prefetched_per_token: experts that were read ahead.
        prefetch_used: share of these that were used, 0 to 1.
        peak_rss_bytes: of the process since the model was opened; since the process began where
            the kernel does not let it be reset.
        joules_per_token: of the whole machine; None where it is not measured.
    """

    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    compute_s_per_token: float
    activations_per_token: float
    bytes_per_token: float
    hit_rate: float
    stall_share: float
    stall_ms_per_token: float
    first_layer_stall_ms: float
    prefetched_per_token: float
    prefetch_used: float
    peak_rss_bytes: float
    joules_per_token: float | None = None


def measure(llm: "LLM", workload: Workload) -> Measurement:
    """Prefill, warm up and decode in a new sequence of a model that was just opened.

    Raises what `Sequence.decode` raises.
    """
    with llm.new_sequence() as sequence:
        began = time.perf_counter()
        sequence.prefill(workload.prompt)
        prefill_s = time.perf_counter() - began
        for token in workload.warm_up:
            sequence.decode(int(token))
        steps = []
        with llm.power.span() as span:
            for token in workload.decode:
                sequence.decode(int(token))
                steps.append(sequence.last_stats)
    n, decode_s = len(steps), span.seconds
    visits = sum(step.experts_used for step in steps)
    prefetched = sum(step.prefetched for step in steps)
    return Measurement(
        decode_tokens_per_s=n / decode_s,
        prefill_tokens_per_s=len(workload.prompt) / prefill_s,
        compute_s_per_token=sum(step.compute_s for step in steps) / n,
        activations_per_token=sum(step.experts_activated for step in steps) / n,
        bytes_per_token=sum(step.bytes_read for step in steps) / n,
        hit_rate=sum(step.expert_hits for step in steps) / visits,
        stall_share=sum(step.stall_s for step in steps) / decode_s,
        stall_ms_per_token=1000 * sum(step.stall_s for step in steps) / n,
        first_layer_stall_ms=1000 * sum(step.first_layer_stall_s for step in steps) / n,
        prefetched_per_token=prefetched / n,
        prefetch_used=sum(step.prefetch_used for step in steps) / prefetched if prefetched else 0.0,
        peak_rss_bytes=float(peak_rss_bytes()),
        joules_per_token=None if span.joules is None else span.joules / n,
    )


def reset_peak_rss() -> None:
    """Let the kernel forget the peak so far; kernels built without that keep it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
