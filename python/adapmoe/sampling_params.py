# SPDX-License-Identifier: Apache-2.0
"""What the caller wants from one generation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when generation ends. Immutable and validated.

    Attributes:
        max_tokens: most tokens to generate, at least 1. None: 256, or less where the context ends
            earlier.
        temperature: divides the logits; 0 (the default) always takes the most likely token.
        top_k: sample among the k most likely tokens only; 0: off.
        top_p: sample among the fewest tokens whose probabilities reach top_p, in (0, 1]; 1: off.
        seed: makes sampling repeatable; every sequence starts its own generator from it. None:
            random.
        stop: a string, or several, that end the text; they are not part of it.
        ignore_eos: go on after an end-of-sequence token, up to max_tokens.

    Raises:
        ValueError: a value is out of its range.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        """Check every range; store `stop` as a tuple."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stops)
        self._require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "at least 1")
        self._require(
            math.isfinite(self.temperature) and self.temperature >= 0,
            "temperature",
            "0 or a positive finite number",
        )
        self._require(self.top_k >= 0, "top_k", "0 (off) or positive")
        self._require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        self._require(self.seed is None or self.seed >= 0, "seed", "None, 0 or positive")
        self._require(all(isinstance(s, str) and s for s in stops), "stop", "non-empty strings")

    def _require(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {expected}, not {getattr(self, name)!r}")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple, empty when there are none."""
        return tuple(self.stop)
