# SPDX-License-Identifier: Apache-2.0
"""Runs variants one after the other, again and again, so that all see the same machine."""

import contextlib
import os
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from adapmoe.bench.workload import BASE, Workload
from adapmoe.errors import BudgetError, ReadError
from adapmoe.llm import LLM
from adapmoe.machine.bandwidth import open_direct, read_buffer
from adapmoe.machine.procfs import peak_rss_bytes
from adapmoe.pack.manifest import Experts
from adapmoe.settings import Settings

_OUTSTANDING = 2  # experts: as many as one token of a top-2 model can wait for


@dataclass(frozen=True)
class Bound:
    """Measured in the same round as the runs that are compared with it.

    Attributes:
        compute_s_per_token: without waiting for experts.
        all_resident: whether that was measured with all experts resident, or, where they do not
            fit, beside the reads of the run itself.
        disk_bytes_per_s: random reads of whole experts, two outstanding.
        direct: whether they bypassed the page cache; if not, the figure may be memory's.
    """

    compute_s_per_token: float
    all_resident: bool
    disk_bytes_per_s: float
    direct: bool

    def token_s(self, bytes_per_token: float) -> float:
        """The least seconds for a token that misses so many bytes."""
        return max(self.compute_s_per_token, bytes_per_token / self.disk_bytes_per_s)


def read_experts(pack: Path, experts: Experts, *, seconds: float) -> tuple[float, bool]:
    """Read experts in random order, two at a time.

    Args:
        pack: its directory.
        experts: the manifest's `experts`.
        seconds: no further read is begun after this time; two are always measured.

    Returns:
        Bytes per second, and whether the page cache was bypassed.

    Raises:
        ReadError: the file cannot be read.
    """
    path = pack / experts.file
    try:
        descriptor, direct = open_direct(path)
        try:
            began = time.perf_counter()
            with ThreadPoolExecutor(_OUTSTANDING) as pool:
                jobs = [
                    pool.submit(_read_until, began + seconds, descriptor, experts, seed)
                    for seed in range(_OUTSTANDING)
                ]
                total = sum(job.result() for job in jobs)
            return total / (time.perf_counter() - began), direct
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror}") from error


def _read_until(deadline: float, descriptor: int, experts: Experts, seed: int) -> int:
    size, total, numbers = experts.expert_bytes, 0, random.Random(seed)
    with read_buffer(size) as buffer:
        while True:
            number = numbers.randrange(len(experts.crc32c))
            total += os.preadv(descriptor, [buffer], experts.offset(number))
            if time.perf_counter() >= deadline:
                return total


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


_DISK_SECONDS = 2.0
_ALL_RESIDENT = "everything resident"


@dataclass(frozen=True)
class Round:
    """Every variant once, and what bounded them at that time."""

    bound: Bound
    runs: dict[str, Measurement]

    def fraction_of_bound(self, name: str) -> float:
        """The least time for a token over the time it took: 1 is perfect.

        Computing is that of all experts, so a gate that leaves some out may exceed 1.
        """
        run = self.runs[name]
        return self.bound.token_s(run.bytes_per_token) * run.decode_tokens_per_s

    def speedup(self, name: str) -> float:
        """Decode speed over that of the base in the same round."""
        return self.runs[name].decode_tokens_per_s / self.runs[BASE].decode_tokens_per_s


def run_rounds(
    pack: Path,
    experts: Experts,
    variants: Mapping[str, Settings],
    workload: Workload,
    *,
    repeat: int,
    on_run: Callable[[str], None],
) -> list[Round]:
    """Measure all variants `repeat` times, every other round backwards.

    Args:
        pack: its directory.
        experts: the manifest's `experts`.
        variants: {name: settings}; one is BASE.
        workload: what every run is fed.
        repeat: rounds.
        on_run: told the name of each run before it begins.

    Raises what LLM and ReadError raise.
    """
    rounds = []
    for number in range(repeat):
        on_run("disk")
        bandwidth, direct = read_experts(pack, experts, seconds=_DISK_SECONDS)
        on_run(_ALL_RESIDENT)
        resident = _all_resident(pack, variants[BASE], workload)
        names = list(variants) if number % 2 == 0 else list(variants)[::-1]
        runs = {}
        for name in names:
            on_run(name)
            runs[name] = _run(pack, variants[name], workload)
        compute = resident or runs[BASE]
        bound = Bound(compute.compute_s_per_token, resident is not None, bandwidth, direct)
        rounds.append(Round(bound, runs))
    return rounds


def _all_resident(pack: Path, base: Settings, workload: Workload) -> Measurement | None:
    """None where the experts do not all fit into memory."""
    everything = replace(base, memory="auto", experts_resident=1.0, gating="off")
    try:
        return _run(pack, everything, workload)
    except BudgetError:
        return None


def open_variant(
    pack: Path, settings: Settings, workload: Workload, *, timeline: bool = False
) -> LLM:
    """A model for one run. Raises what LLM raises."""
    # What an earlier run left resident must not help this one.
    chosen = replace(settings, max_context=workload.length, warm_restart=False, timeline=timeline)
    return LLM(pack, **vars(chosen))


def _run(pack: Path, settings: Settings, workload: Workload) -> Measurement:
    reset_peak_rss()
    with open_variant(pack, settings, workload) as llm:
        return measure(llm, workload)
