# SPDX-License-Identifier: Apache-2.0
"""What the caller wants from one generation."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LogitsProcessor = Callable[[list[int], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when generation ends. Immutable and validated.

    The logits of a step go through, in this order: logit_bias, repetition_penalty, presence_penalty
    and frequency_penalty, the logits processors; then, unless temperature is 0, temperature, top_k,
    top_p, min_p. What has the same name in transformers does the same here.

    Attributes:
        max_tokens: most tokens to generate, at least 1. None: 256, or less where the context ends
            earlier.
        temperature: divides the logits; 0 (the default) always takes the most likely token.
        top_k: sample among the k most likely tokens only; 0: off.
        top_p: sample among the fewest tokens whose probabilities reach top_p, in (0, 1]; 1: off.
        seed: makes sampling repeatable; every sequence starts its own generator from it. None:
            random.
        stop: a string, or several, that end the text; they are not part of it. They are compared
            with the text as the model wrote it, special tokens such as "<|im_end|>" included,
            though those are not shown.
        ignore_eos: go on after an end-of-sequence token, up to max_tokens.
        min_p: sample only tokens at least min_p times as likely as the most likely one, in [0, 1];
            0: off.
        repetition_penalty: above 0; logits of tokens that the prompt or the answer contains are
            divided by it where positive and multiplied where negative; 1: off.
        presence_penalty: subtracted from the logit of every token generated so far; 0: off.
        frequency_penalty: subtracted once per time that a token was generated so far; 0: off.
        logit_bias: token id to a number added to its logit; -inf bans the token.
        stop_token_ids: tokens that end the generation, also with ignore_eos. As the last of
            `token_ids` they are kept; their text is not.
        logprobs: report for each generated token its log-probability and those of this many most
            likely tokens; see `TokenLogprobs`. None: do not.
        logits_processor: called as `f(token_ids, logits)`, one or several in turn. token_ids:
            prompt and answer so far; logits: float32 `[vocab_size]`, writable. Returns logits of
            the same shape; -inf bans a token.

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
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    stop_token_ids: Sequence[int] = ()
    logprobs: int | None = None
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] = ()

    def __post_init__(self) -> None:
        """Check every range; store sequences as tuples and the bias as a copy."""
        processors = self.logits_processor
        self._store("stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        self._store("stop_token_ids", tuple(self.stop_token_ids))
        self._store("logit_bias", dict(self.logit_bias))
        self._store("logits_processor", (processors,) if callable(processors) else (*processors,))
        self._check_length()
        self._check_filters()
        self._check_penalties()

    def _store(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_length(self) -> None:
        self._require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "at least 1")
        self._require(all(isinstance(s, str) and s for s in self.stop), "stop", "non-empty strings")
        self._require(
            all(_is_token_id(i) for i in self.stop_token_ids), "stop_token_ids", "token ids"
        )
        self._require(
            self.logprobs is None or self.logprobs >= 0, "logprobs", "None, 0 or positive"
        )

    def _check_filters(self) -> None:
        self._require(
            math.isfinite(self.temperature) and self.temperature >= 0,
            "temperature",
            "0 or a positive finite number",
        )
        self._require(self.top_k >= 0, "top_k", "0 (off) or positive")
        self._require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        self._require(0 <= self.min_p <= 1, "min_p", "from 0 (off) to 1")
        self._require(self.seed is None or self.seed >= 0, "seed", "None, 0 or positive")

    def _check_penalties(self) -> None:
        self._require(
            math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0,
            "repetition_penalty",
            "a positive finite number",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            self._require(math.isfinite(getattr(self, name)), name, "a finite number")
        self._require(
            all(_is_token_id(i) and b < math.inf for i, b in self.logit_bias.items()),
            "logit_bias",
            "a mapping from token ids to finite numbers or -inf",
        )
        self._require(
            all(callable(p) for p in self.logits_processors), "logits_processor", "callable"
        )

    def _require(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {expected}, not {getattr(self, name)!r}")

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ValueError if `logit_bias` or `stop_token_ids` name a token that does not exist."""
        for name in ("logit_bias", "stop_token_ids"):
            wrong = [token_id for token_id in getattr(self, name) if token_id >= vocab_size]
            if wrong:
                raise ValueError(
                    f"{name}: token id {wrong[0]} is outside the vocabulary of {vocab_size} tokens"
                )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple, empty when there are none."""
        return tuple(self.stop)

    @property
    def logits_processors(self) -> tuple[LogitsProcessor, ...]:
        """`logits_processor` as a tuple, empty when there are none."""
        processors = self.logits_processor
        return (processors,) if callable(processors) else tuple(processors)


def _is_token_id(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return int(value) >= 0
