# SPDX-License-Identifier: Apache-2.0
"""What a generation cost."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapmoe.units import format_bytes

if TYPE_CHECKING:
    from adapmoe._core import MemorySplit, StepStats


_SPLIT_FIELDS = (
    "memory_bytes",
    "dense_bytes",
    "kv_bytes",
    "scratch_bytes",
    "expert_bytes",
    "tile_bytes",
    "frames",
    "frames_total",
    "floor_bytes",
    "cycle_bytes",
    "host_bytes",
)


@dataclass
class GenerationStats:
    """Sums over the steps of one generation.

    A step that several sequences share counts in full for each of them.

    Attributes:
        prefill_tokens, decode_tokens: tokens of this sequence.
        prefill_s, decode_s: wall time of its steps, with sampling and detokenising.
        cached_tokens: tokens of the prompt that were not computed, because the sequence already
            held them.
        experts_used: expert visits, one per expert, layer and chunk; expert_hits: visits that found
            the expert resident.
        bytes_read: expert bytes read from the pack.
        stall_s: time spent waiting for expert tiles; compute_s: the core's other time.
        prefill_energy_j, decode_energy_j: energy of the whole machine during these steps; None if
            any of it was not measured.
        throttled: what slowed the machine down meanwhile, perhaps nothing; None if the machine does
            not report it, and until the generation ends.
    """

    cached_tokens: int = 0
    prefill_tokens: int = 0
    prefill_s: float = 0.0
    decode_tokens: int = 0
    decode_s: float = 0.0
    experts_used: int = 0
    expert_hits: int = 0
    bytes_read: int = 0
    stall_s: float = 0.0
    compute_s: float = 0.0
    prefill_energy_j: float | None = None
    decode_energy_j: float | None = None
    throttled: list[str] | None = None

    def add_prefill(
        self, step: "StepStats", tokens: int, seconds: float, joules: float | None = None
    ) -> None:
        """Count a prefill of `tokens` that took `seconds` of wall time."""
        self.prefill_energy_j = _add(self.prefill_energy_j, joules, first=not self.prefill_tokens)
        self.prefill_tokens += tokens
        self.prefill_s += seconds
        self._add_step(step)

    def add_decode(self, step: "StepStats", seconds: float, joules: float | None = None) -> None:
        """Count one decode step of one token."""
        self.decode_energy_j = _add(self.decode_energy_j, joules, first=not self.decode_tokens)
        self.decode_tokens += 1
        self.decode_s += seconds
        self._add_step(step)

    def _add_step(self, step: "StepStats") -> None:
        self.experts_used += step.experts_used
        self.expert_hits += step.expert_hits
        self.bytes_read += step.bytes_read
        self.stall_s += step.stall_s
        self.compute_s += step.compute_s

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens per second; 0 before the first step."""
        return self.prefill_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Generated tokens per second, not counting the first, which comes from prefill."""
        return self.decode_tokens / self.decode_s if self.decode_s else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of expert visits that found the expert resident, 0 to 1."""
        return self.expert_hits / self.experts_used if self.experts_used else 0.0

    @property
    def joules_per_token(self) -> float | None:
        """Energy of decoding per token; None if not measured, or nothing was decoded."""
        if self.decode_energy_j is None:
            return None
        return self.decode_energy_j / self.decode_tokens

    def as_dict(self) -> dict[str, Any]:
        """All of it by name, ready for JSON."""
        return {
            "joules_per_token": self.joules_per_token,
            "prefill_tokens_per_s": self.prefill_tokens_per_s,
            "decode_tokens_per_s": self.decode_tokens_per_s,
            "hit_rate": self.hit_rate,
            **vars(self),
        }


def _add(total: float | None, joules: float | None, *, first: bool) -> float | None:
    """The total, or None if any step was not measured."""
    if joules is None or first:
        return joules
    return None if total is None else total + joules


def split_as_dict(split: "MemorySplit") -> dict[str, int]:
    """The memory split by name, ready for JSON: bytes, and two counts of frames."""
    return {name: getattr(split, name) for name in _SPLIT_FIELDS}


def describe_split(split: "MemorySplit") -> str:
    """The memory split in one paragraph for people."""
    rows = [
        ("memory", split.memory_bytes, ""),
        ("dense weights", split.dense_bytes, ""),
        ("KV cache", split.kv_bytes, ""),
        ("scratch", split.scratch_bytes, ""),
        (
            "experts",
            split.expert_bytes,
            f"{split.frames} of {split.frames_total} tiles resident at most",
        ),
        ("one token's experts", split.cycle_bytes, "read per token without any hit"),
    ]
    if split.host_bytes:  # the rest is in a GPU's own memory
        rows.append(("CPU memory beside", split.host_bytes, "staging, and rows that the CPU reads"))
    return "\n".join(
        f"  {label:<20} {format_bytes(size):>12}  {remark}".rstrip() for label, size, remark in rows
    )
