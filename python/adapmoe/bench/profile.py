# SPDX-License-Identifier: Apache-2.0
"""Where the time of a token goes, part by part, and what bounds it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adapmoe.bench.traffic import MemoryTraffic
from adapmoe.core_types import Span

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
