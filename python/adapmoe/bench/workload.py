# SPDX-License-Identifier: Apache-2.0
"""What a benchmark runs: the prompts, and the settings compared."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe.generation.sequence import TokenIds, as_token_ids
from adapmoe.settings import Settings

# Of prompt, warm-up and what is measured.
_DEFAULTS = (128, 16, 48)
_LEAST = (1, 0, 1)


@dataclass(frozen=True)
class Workload:
    """Token ids, int32. Fed as given, not sampled, so that all runs do the same work.

    Attributes:
        prompt: `[prompt_tokens]`, prefilled.
        warm_up: decoded before the measurement, so that residency has settled.
        decode: decoded and measured.
    """

    prompt: NDArray[np.int32]
    warm_up: NDArray[np.int32]
    decode: NDArray[np.int32]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + len(self.warm_up) + len(self.decode)

    def as_dict(self) -> dict[str, int]:
        """Counts, ready for JSON."""
        return {
            "prompt_tokens": len(self.prompt),
            "warm_up_tokens": len(self.warm_up),
            "tokens": len(self.decode),
        }


def fit_sizes(
    context: int, prompt_tokens: int | None, warm_up: int | None, tokens: int | None
) -> tuple[int, int, int]:
    """Sizes of the three parts; None: the default, or a share of what `context` has room for.

    Raises:
        ValueError: there is no room.
    """
    asked = (prompt_tokens, warm_up, tokens)
    free = [default for size, default in zip(asked, _DEFAULTS, strict=True) if size is None]
    room = context - sum(size for size in asked if size is not None)
    share = min(1.0, room / max(sum(free), 1))
    prompt, warm, decode = (
        max(least, int(default * share)) if size is None else size
        for size, default, least in zip(asked, _DEFAULTS, _LEAST, strict=True)
    )
    if prompt + warm + decode > context:
        raise ValueError(
            f"--prompt-tokens {prompt} + --warmup {warm} + --tokens {decode} = "
            f"{prompt + warm + decode}, but the model was trained for {context} tokens: lower them"
        )
    return prompt, warm, decode


def make_workload(
    ids: TokenIds, vocab_size: int, *, prompt_tokens: int, warm_up: int, tokens: int
) -> Workload:
    """Cut a text's token ids into the three parts; a short text is repeated.

    Raises:
        ValueError: no ids, or a part with a wrong size.
    """
    if prompt_tokens < 1 or tokens < 1 or warm_up < 0:
        raise ValueError("a benchmark needs at least 1 prompt token and 1 token to decode")
    total = prompt_tokens + warm_up + tokens
    repeated = np.resize(as_token_ids(ids, vocab_size), total)
    prompt, warm, decode = np.split(repeated, [prompt_tokens, prompt_tokens + warm_up])
    return Workload(prompt, warm, decode)


BASE = "base"
_CHOICES: dict[str, tuple[Any, ...]] = {
    "prefetch": (0, 1, 2, 3),
    "prefetch_trials": (True,),
    "first_layer": ("embedding", "none"),
    "policy": ("next-use", "farthest-layer", "lru", "lfru", "least-stale"),
    "evict": ("tile", "expert"),
    "allocation": ("global", "uniform"),
    "verify": ("always", "never"),
    "register_buffers": (False, True),
}
_CALIBRATED: dict[str, tuple[Any, ...]] = {
    "first_layer": ("hidden", "both"),
    "allocation": ("dp",),
    "gating": ("off", "sensitivity", "residency"),
}


def ablation_of(base: Settings, *, calibrated: bool) -> dict[str, Settings]:
    """{name: settings}, the base first; what needs a calibration only where there is one.

    Prefetch is as given in all of them, so that each shows what its setting does, but for one that
    shows what trials cost.
    """
    base = replace(base, prefetch_trials=False)
    variants = {BASE: base}
    for name, value in _changes(calibrated):
        if base.prefetch == 0 and name in ("first_layer", "prefetch_trials"):
            continue  # nothing is foreseen
        if getattr(base, name) != value:
            variants[f"{name}={value}"] = replace(base, **{name: value})
    return variants


def _changes(calibrated: bool) -> Iterator[tuple[str, Any]]:
    for choices in (_CHOICES, _CALIBRATED) if calibrated else (_CHOICES,):
        for name, values in choices.items():
            for value in values:
                yield name, value
