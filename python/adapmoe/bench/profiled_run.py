# SPDX-License-Identifier: Apache-2.0
"""One run of a workload, its time taken part by part."""

import time
from typing import TYPE_CHECKING

from adapmoe.bench.profile import PhaseProfile, summarize_phase
from adapmoe.bench.traffic import MemoryTraffic
from adapmoe.bench.workload import Workload
from adapmoe.geometry import read_manifest
from adapmoe.sampler import Sampler
from adapmoe.sampling_params import SamplingParams

if TYPE_CHECKING:
    from adapmoe.llm import LLM


def profile(llm: "LLM", workload: Workload) -> dict[str, PhaseProfile]:
    """{"prefill": ..., "decode": ...} of a model opened with `timeline=True`.

    The prompt is prefilled twice and the second time is profiled, so that it does not show the
    first reading of all experts. Each token is sampled greedily, but the workload's is fed.

    Raises:
        ValueError: a backend other than the CPU's, whose calls return before the work is done.
    """
    if not llm.backend.startswith("cpu/"):
        raise ValueError(f"a profile needs the backend cpu: calls of {llm.backend} return early")
    traffic = MemoryTraffic(read_manifest(llm.path))
    sampler = Sampler(workload.prompt, SamplingParams())
    with llm.new_sequence() as sequence:
        sequence.prefill(workload.prompt)
        sequence.reset()
        phase = _Phase(llm)
        sampler.next(sequence.prefill(workload.prompt))
        # A prompt's rows share what they read of the KV cache.
        prefill = phase.finish(traffic, len(workload.prompt), None)
        for token in workload.warm_up:
            sequence.decode(int(token))
        phase, first = _Phase(llm), sequence.length
        for token in workload.decode:
            sampler.next(sequence.decode(int(token)))
        kv_bytes = traffic.kv_bytes(range(first, sequence.length))
        decode = phase.finish(traffic, len(workload.decode), kv_bytes)
    return {"prefill": prefill, "decode": decode}


class _Phase:
    """From its making to `finish`."""

    def __init__(self, llm: "LLM") -> None:
        self._llm = llm
        self._spans = len(llm.timeline())
        self._before = llm.stats
        self._began = time.perf_counter()

    def finish(self, traffic: MemoryTraffic, tokens: int, kv_bytes: int | None) -> PhaseProfile:
        seconds = time.perf_counter() - self._began
        before, after = self._before, self._llm.stats
        visits = after.experts_used - before.experts_used
        memory: dict[str, int | None] = {
            "attention": kv_bytes,
            "gate and up": visits * traffic.gate_up_bytes,
            "down": visits * traffic.down_bytes,
        }
        return summarize_phase(
            self._llm.timeline()[self._spans :],
            tokens,
            seconds,
            core_seconds=after.wall_s - before.wall_s,
            disk_bytes=after.bytes_read - before.bytes_read,
            traffic=traffic,
            memory=memory,
        )
