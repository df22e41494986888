# SPDX-License-Identifier: Apache-2.0
"""Where the time of a token goes, part by part, and what bounds it."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapmoe.bench.workload import Workload
from adapmoe.core_types import Span
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.sampling import Sampler
from adapmoe.pack.manifest import Manifest
from adapmoe.pack.weights import tile_shapes

if TYPE_CHECKING:
    from adapmoe.llm import LLM


_KV_BYTES = 2  # float16, the default of LLM
_LAYER_TENSORS = {
    "norm": ("input_layernorm",),
    "qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o_proj": ("self_attn.o_proj",),
    "router": ("block_sparse_moe.gate",),
}


class MemoryTraffic:
    """Of one pack. Activations are left out: they stay in the caches of the processor."""

    def __init__(self, manifest: Manifest) -> None:
        """`manifest`: of the pack."""
        self._tensors = manifest.dense.tensors
        self._config = manifest.config
        gate, up, down = (shape.nbytes for shape in tile_shapes(manifest))
        tiles = manifest.experts.tiles
        self.gate_up_bytes = tiles * (gate + up)  # of an expert
        self.down_bytes = tiles * down

    def span_bytes(self, name: str, layer: int) -> int | None:
        """What a span of `Session.timeline()` reads; None where that is not known.

        Args:
            name: of the span.
            layer: -1 where it belongs to none.
        """
        if name == "head":
            tied = self._config.tie_word_embeddings
            return self._bytes("model.embed_tokens" if tied else "lm_head")
        if name not in _LAYER_TENSORS:
            return None
        if layer < 0:
            return self._bytes("model.norm")
        return sum(self._bytes(f"model.layers.{layer}.{part}") for part in _LAYER_TENSORS[name])

    def kv_bytes(self, positions: Iterable[int]) -> int:
        """Keys and values that decoding one token at each of these positions attends to."""
        config = self._config
        window = config.sliding_window or config.max_position_embeddings
        attended = sum(min(position + 1, window) for position in positions)
        row = config.num_key_value_heads * -(-config.head_dim // 16) * 16 * _KV_BYTES
        return attended * config.num_hidden_layers * 2 * row

    def _bytes(self, name: str) -> int:
        return self._tensors[f"{name}.weight"].bytes


WAITING, PYTHON, OTHER = "waiting for reads", "sampling and Python", "other"
# {part: names of its spans}; time outside them belongs to OTHER.
PARTS = {
    "embedding": ("embedding",),
    "norms": ("norm",),
    "q, k, v projections": ("qkv_proj",),
    "attention": ("attention",),
    "output projection": ("o_proj",),
    "router": ("router",),
    "look-ahead": ("look_ahead",),
    "gate and up": ("gate_up", "gate_up, streamed"),
    "down": ("down", "down, streamed"),
    "combine": ("combine",),
    "head": ("head",),
    WAITING: ("stall",),
}
_PART_OF = {name: part for part, names in PARTS.items() for name in names}
_EXPLAINS = 0.5  # of the time: from here on a bandwidth is what bounds a phase


@dataclass(frozen=True)
class Part:
    """Mean of a token.

    Attributes:
        seconds: on the thread that runs the step; other threads work or read meanwhile.
        share: of the phase, 0 to 1.
        memory_bytes: of weights and KV cache read from memory; None where that is not known.
    """

    seconds: float
    share: float
    memory_bytes: float | None

    def of_bandwidth(self, bytes_per_s: float) -> float | None:
        """Share of a bandwidth that this part reaches, 0 to 1; None without bytes or time."""
        if self.memory_bytes is None or not self.seconds:
            return None
        return self.memory_bytes / self.seconds / bytes_per_s


@dataclass(frozen=True)
class PhaseProfile:
    """Prefill or decode.

    Attributes:
        tokens: measured.
        seconds_per_token: by the clock of the caller; the parts add up to it.
        parts: {name: part}, every name of PARTS, PYTHON and OTHER.
        disk_bytes_per_token: read from the pack.
    """

    tokens: int
    seconds_per_token: float
    parts: dict[str, Part]
    disk_bytes_per_token: float

    @property
    def memory_bytes_per_token(self) -> float:
        """Of all parts whose bytes are known."""
        return sum(part.memory_bytes or 0.0 for part in self.parts.values())

    def bandwidth_shares(self, memory: float, disk: float) -> dict[str, float]:
        """Share of the time that reading alone would take, from each at its bytes per second."""
        return {
            "memory": self.memory_bytes_per_token / memory / self.seconds_per_token,
            "disk": self.disk_bytes_per_token / disk / self.seconds_per_token,
        }

    def bound_by(self, memory: float, disk: float) -> str:
        """What explains half of the time: "memory" or "disk", if one bandwidth does; else "waiting"
        if waiting for reads does, which then is for latency or order; else "computing".
        """
        shares = self.bandwidth_shares(memory, disk)
        largest = max(shares, key=lambda name: shares[name])
        if shares[largest] >= _EXPLAINS:
            return largest
        return "waiting" if self.parts[WAITING].share >= _EXPLAINS else "computing"

    def as_dict(self, memory: float, disk: float) -> dict[str, Any]:
        """Ready for JSON; `memory` and `disk` in bytes per second."""
        parts = {
            name: vars(part) | {"of_memory_bandwidth": part.of_bandwidth(memory)}
            for name, part in self.parts.items()
        }
        return {
            "tokens": self.tokens,
            "seconds_per_token": self.seconds_per_token,
            "memory_bytes_per_token": self.memory_bytes_per_token,
            "disk_bytes_per_token": self.disk_bytes_per_token,
            "bandwidth_shares": self.bandwidth_shares(memory, disk),
            "bound_by": self.bound_by(memory, disk),
            "parts": parts,
        }


def summarize_phase(
    spans: Sequence[Span],
    tokens: int,
    seconds: float,
    *,
    core_seconds: float,
    disk_bytes: int,
    traffic: MemoryTraffic,
    memory: dict[str, int | None],
) -> PhaseProfile:
    """Add up what a phase recorded.

    Args:
        spans: of the phase.
        tokens: it computed.
        seconds: by the caller's clock; core_seconds: of them inside the core.
        disk_bytes: read from the pack.
        traffic: bytes of the dense parts.
        memory: {part: bytes} of the parts whose bytes no span tells.
    """
    spent: Counter[str] = Counter()
    read: Counter[str] = Counter()
    for lane, name, _, layer, begin, end in spans:
        if lane not in ("compute", "stall") or name not in _PART_OF:
            continue  # a reader's, beside the step
        spent[_PART_OF[name]] += end - begin
        nbytes = traffic.span_bytes(name, layer)
        if nbytes is not None:
            read[_PART_OF[name]] += nbytes
    times = {part: spent[part] * 1e-9 for part in PARTS} | {PYTHON: seconds - core_seconds}
    times[OTHER] = seconds - sum(times.values())
    known: dict[str, int | None] = {**read, **memory}
    parts = {}
    for name, its_seconds in times.items():
        nbytes = known.get(name)
        per_token = None if nbytes is None else nbytes / tokens
        parts[name] = Part(its_seconds / tokens, its_seconds / seconds, per_token)
    return PhaseProfile(tokens, seconds / tokens, parts, disk_bytes / tokens)


def profile(llm: "LLM", workload: Workload) -> dict[str, PhaseProfile]:
    """{"prefill": ..., "decode": ...} of a model opened with `timeline=True`.

    The prompt is prefilled twice and the second time is profiled, so that it does not show the
    first reading of all experts. Each token is sampled greedily, but the workload's is fed.

    Raises:
        ValueError: a backend other than the CPU's, whose calls return before the work is done.
    """
    if not llm.backend.startswith("cpu/"):
        raise ValueError(f"a profile needs the backend cpu: calls of {llm.backend} return early")
    traffic = MemoryTraffic(Manifest.read(llm.path))
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
