# SPDX-License-Identifier: Apache-2.0
"""What the caller wants from one generation."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from adapmoe import checks

if TYPE_CHECKING:
    from typing_extensions import Unpack


LogitsProcessor = Callable[[list[int], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when generation ends. Immutable and validated.

    The logits of a step go through, in this order: logit_bias, repetition_penalty, presence_penalty
    and frequency_penalty, the logits processors; then, unless temperature is 0, temperature, top_k,
    top_p, min_p. What has the same name in transformers does the same here. Extreme values act as
    their limits: a tiny temperature takes the most likely token, or one of several that are equal,
    and a huge bias the token that it favours. Only -inf bans a token; no penalty does.

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
        TypeError: a value is of a wrong type. NumPy's numbers are taken, booleans are no numbers.
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

    @classmethod
    def of(
        cls, params: "SamplingParams | None" = None, /, **overrides: "Unpack[SamplingOverrides]"
    ) -> "SamplingParams":
        """`params`, or the defaults for None, with some settings replaced.

        Raises:
            TypeError: there is no setting of such a name, or as for the class.
            ValueError: as for the class.
        """
        if params is not None and not isinstance(params, SamplingParams):
            raise checks.wrong_type(
                "params", "SamplingParams or None (give single settings by name)", params
            )
        known = [setting.name for setting in fields(cls)]
        for name in overrides:
            if name not in known:
                raise TypeError(f"{name!r} is not a sampling setting; there are {', '.join(known)}")
        return replace(params or cls(), **overrides)

    def __post_init__(self) -> None:
        """Check everything, and store it as plain immutable Python objects."""
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))

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


class SamplingOverrides(TypedDict, total=False):
    """The settings of `SamplingParams` as keyword arguments, for type checkers."""

    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    stop: str | Sequence[str]
    ignore_eos: bool
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    stop_token_ids: Sequence[int]
    logprobs: int | None
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor]


def _count(name: str, value: object) -> int:
    return checks.integer(name, value, 0)


def _max_tokens(name: str, value: object) -> int | None:
    return None if value is None else checks.integer(name, value, 1)


def _count_or_none(name: str, value: object) -> int | None:
    return checks.optional(_count, name, value)


def _temperature(name: str, value: object) -> float:
    found = checks.number(name, value)
    if found < 0:
        raise checks.out_of_range(name, "0 or a positive finite number", found)
    return found


def _top_p(name: str, value: object) -> float:
    found = checks.number(name, value)
    if not 0 < found <= 1:
        raise checks.out_of_range(name, "above 0 and at most 1", found)
    return found


def _min_p(name: str, value: object) -> float:
    return checks.within(name, value, 0, 1)


def _repetition_penalty(name: str, value: object) -> float:
    found = checks.number(name, value)
    if found <= 0:
        raise checks.out_of_range(name, "a positive finite number", found)
    return found


def _stop(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_stop_string(name, value),)
    several = checks.items(name, value, "a string or a list of strings")
    return tuple(_stop_string(f"{name}[{at}]", stop) for at, stop in enumerate(several))


def _stop_string(name: str, value: object) -> str:
    found = checks.text(name, value)
    if not found:
        raise checks.out_of_range(name, "a non-empty string", found)
    return found


def _stop_token_ids(name: str, value: object) -> tuple[int, ...]:
    several = checks.items(name, value, "a list of token ids")
    return tuple(checks.token_id(f"{name}[{at}]", found) for at, found in enumerate(several))


def _logit_bias(name: str, value: object) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise checks.wrong_type(name, "a mapping from token ids to numbers", value)
    return {
        checks.token_id(f"a key of {name}", token): _bias(f"{name}[{token}]", bias)
        for token, bias in value.items()
    }


def _bias(name: str, value: object) -> float:
    """Unlike +inf, which leaves nothing to compare, -inf has a meaning: never."""
    if isinstance(value, float | np.floating) and value == -math.inf:
        return -math.inf
    try:
        return checks.number(name, value)
    except ValueError:
        raise checks.out_of_range(name, "a finite number or -inf", value) from None


def _logits_processors(name: str, value: object) -> tuple[LogitsProcessor, ...]:
    processors = (
        (value,)
        if callable(value)
        else checks.items(name, value, "callable, or a list of what is callable")
    )
    for at, processor in enumerate(processors):
        if not callable(processor):
            raise checks.wrong_type(f"{name}[{at}]", "callable", processor)
    return processors


_CHECKS: dict[str, Callable[[str, object], object]] = {
    "max_tokens": _max_tokens,
    "temperature": _temperature,
    "top_k": _count,
    "top_p": _top_p,
    "seed": _count_or_none,
    "stop": _stop,
    "ignore_eos": checks.flag,
    "min_p": _min_p,
    "repetition_penalty": _repetition_penalty,
    "presence_penalty": checks.number,
    "frequency_penalty": checks.number,
    "logit_bias": _logit_bias,
    "stop_token_ids": _stop_token_ids,
    "logprobs": _count_or_none,
    "logits_processor": _logits_processors,
}
