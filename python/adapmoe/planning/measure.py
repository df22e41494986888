# SPDX-License-Identifier: Apache-2.0
"""Everything the plan measures on this machine, in one pass of about ten seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import ReadError
from adapmoe.generation.sequence import Sequence
from adapmoe.machine.bandwidth import DiskProbe, DiskSpeed, measure_disk, measure_memory
from adapmoe.pack.manifest import Manifest, PackGeometry
from adapmoe.planning.step_time import LayerTime, Measured, split_compute

if TYPE_CHECKING:
    from adapmoe._core import MemorySplit
    from adapmoe.llm import LLM


_PROMPT_TOKENS = 32
_WARM_UP = 8
_FEWEST_STEPS = 24


@dataclass(frozen=True)
class DecodeTimes:
    """One value per step, float64 `[n]`: seconds in all, without waiting for experts, hit rate."""

    wall_s: NDArray[np.float64]
    compute_s: NDArray[np.float64]
    hit_rate: NDArray[np.float64]

    @property
    def tokens_per_s(self) -> float:
        """Over all steps."""
        return len(self.wall_s) / float(self.wall_s.sum())

    @property
    def mean_hit_rate(self) -> float:
        """From 0 to 1."""
        return float(self.hit_rate.mean())


def time_decode(sequence: Sequence, ids: NDArray[np.int32], *, seconds: float) -> DecodeTimes:
    """Prefill the first tokens and append the others one by one, as decoding would.

    Args:
        sequence: an open one; what it holds is forgotten.
        ids: int32 `[n]`, n > 1; no more than fit into the context. If they are few, all but the
            prompt are decoded again.
        seconds: no further step is begun after this time; one step is always measured.
    """
    prompt = min(_PROMPT_TOKENS, len(ids) // 2)
    rest = ids[prompt:]
    sequence.reset()
    sequence.prefill(ids[:prompt])
    rows: list[tuple[float, float, float]] = []
    deadline = time.perf_counter() + seconds
    for number, token in enumerate(islice(cycle(rest), max(len(rest), _WARM_UP + _FEWEST_STEPS))):
        if number % len(rest) == 0:
            sequence.truncate(prompt)
        begin = time.perf_counter()
        sequence.decode(int(token)).argmax()
        wall = time.perf_counter() - begin
        stats = sequence.last_stats
        if number >= _WARM_UP:
            rows.append((wall, wall - stats.stall_s, stats.expert_hits / stats.experts_used))
        if rows and time.perf_counter() > deadline:
            break
    wall_s, compute_s, hit_rate = np.array(rows, np.float64).T
    return DecodeTimes(wall_s, compute_s, hit_rate)


Statistic = Callable[[NDArray[np.float64]], Any]

_WORTH_TELLING_APART = 0.15  # of the hit rate
_PARTS = 4


@dataclass(frozen=True)
class Measurements:
    """Of one pack on one machine.

    Attributes:
        split: of the ceiling that was asked for.
        tiles: per expert.
        probe: reading with several queue depths and sizes of a read.
        memory_bytes_per_s: read by all cores together.
        token_bytes: weights that one token reads, experts included.
        times: expected, slow and fast.
    """

    geometry: PackGeometry
    split: "MemorySplit"
    tiles: int
    probe: DiskProbe
    memory_bytes_per_s: float
    token_bytes: int
    times: tuple[LayerTime, LayerTime, LayerTime]

    @property
    def disk(self) -> DiskSpeed:
        """The setting to read with."""
        best = self.probe.best
        assert best is not None  # measure() raises otherwise
        return best

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON. Seconds and bytes."""
        expected = self.times[0]
        return {
            "disk": [vars(speed) for speed in self.probe.speeds],
            "memory_bytes_per_s": self.memory_bytes_per_s,
            "token_bytes": self.token_bytes,
            "compute_s_per_token": expected.token_s(1.0),
            "wait_s": expected.wait_s,
            "expert_read_s": expected.read_s,
            "expert_read_s_of_disk": self.geometry.expert_bytes / self.disk.bytes_per_s,
        }


def measure(
    llm: "LLM",
    ids: NDArray[np.int32],
    *,
    seconds: float = 10.0,
    on_phase: Callable[[str], None] = lambda name: None,
) -> Measurements:
    """Measure disk, memory, computing, and reading while computing.

    The ceiling of `llm` is lowered for a moment and then is what it was.

    Args:
        llm: an open model with gating and prefetch off.
        ids: int32 `[n]`, text to decode, cut to what the context holds; at least 2 tokens.
        seconds: about how long all of it may take.
        on_phase: called with what is measured next.

    Raises:
        ReadError: the disk cannot be read, or not fast enough to be measured in the time.
    """
    manifest, split = Manifest.read(llm.path), llm.memory_split
    geometry, experts = PackGeometry.of(manifest, split), manifest.experts
    on_phase("disk")
    probe = measure_disk(experts.all_tiles(llm.path), reader=llm.reader, seconds=0.3 * seconds)
    if probe.best is None:
        raise ReadError(
            f"{llm.path}: the disk is too slow to be measured in {0.6 * seconds:.1f} s; "
            "plan with more --seconds"
        )
    on_phase("memory")
    memory_speed = measure_memory(seconds=0.1 * seconds)
    decodes = _decodes(llm, ids, 0.2 * seconds, on_phase)
    dense = _dense_bytes(manifest)
    times = [
        _fit(decodes, statistic, dense, geometry, experts.tiles)
        for statistic in (np.mean, slowest_part, fastest_part)
    ]
    return Measurements(
        geometry,
        split,
        experts.tiles,
        probe,
        memory_speed,
        dense + geometry.cycle * geometry.expert_bytes,
        (times[0], times[1], times[2]),
    )


def _decodes(
    llm: "LLM", ids: NDArray[np.int32], seconds: float, on_phase: Callable[[str], None]
) -> list[DecodeTimes]:
    """The same tokens with all memory, with half of it, and with the least."""
    split = llm.memory_split
    useful = min(split.memory_bytes, llm.geometry.everything_bytes)
    ceilings = {
        "all memory": split.memory_bytes,
        "half of it": (useful + split.floor_bytes) // 2,
        "the least": split.floor_bytes,
    }
    found = []
    try:
        with llm.new_sequence() as sequence:
            for name, ceiling in ceilings.items():
                on_phase(f"decoding with {name}")
                llm.set_memory(ceiling)
                found.append(time_decode(sequence, ids[: llm.max_context], seconds=seconds))
    finally:
        llm.set_memory(split.memory_bytes)
    return found


def _fit(
    decodes: list[DecodeTimes],
    statistic: Statistic,
    dense_bytes: int,
    geometry: PackGeometry,
    tiles: int,
) -> LayerTime:
    resident, partly, starved = decodes
    compute_s = float(statistic(resident.compute_s))
    time = split_compute(
        compute_s,
        dense_bytes,
        geometry.expert_bytes,
        geometry.num_layers,
        geometry.top_k,
        tiles,
    )
    half, least = (
        Measured(float(statistic(times.wall_s)), times.mean_hit_rate) for times in (partly, starved)
    )
    far_enough = half.hit_rate - least.hit_rate > _WORTH_TELLING_APART
    return time.fitted(least, half if far_enough else None)


def slowest_part(seconds: NDArray[np.float64]) -> float:
    """The worst mean of the quarters of a row of steps: other work comes and goes."""
    return max(float(part.mean()) for part in np.array_split(seconds, _PARTS) if len(part))


def fastest_part(seconds: NDArray[np.float64]) -> float:
    """The best mean of the quarters."""
    return min(float(part.mean()) for part in np.array_split(seconds, _PARTS) if len(part))


def _dense_bytes(manifest: Manifest) -> int:
    """Dense weights that one token reads: all but the embedding, of which it reads one row."""
    tensors = manifest.dense.tensors
    skipped = {"model.embed_tokens.weight"} if "lm_head.weight" in tensors else set()
    return sum(place.bytes for name, place in tensors.items() if name not in skipped)
