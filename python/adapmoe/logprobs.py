# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of generated tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe.sampling import log_softmax


@dataclass(frozen=True)
class TokenLogprobs:
    """What the model thought of one generated token and of its rivals.

    Natural logarithms of the distribution that the model gave, softmax of its logits, before
    penalties, bias, processors, temperature and filters changed anything. So a token that was
    sampled may be far from the top, and a banned one may lead.

    Attributes:
        token_id: the token that was chosen.
        logprob: its log-probability, at most 0.
        top: (token id, log-probability) of the most likely tokens, best first, the lower id first
            among equals; as many as `SamplingParams.logprobs` asks for.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it by name, ready for JSON."""
        return {
            "token_id": self.token_id,
            "logprob": self.logprob,
            "top": [{"token_id": i, "logprob": value} for i, value in self.top],
        }


def token_logprobs(logits: NDArray[np.float32], token_id: int, count: int) -> TokenLogprobs:
    """Look up one token and the `count` best in float32 `[vocab_size]` logits of the model."""
    values = log_softmax(logits)
    best = np.argsort(-values, kind="stable")[:count] if count else ()
    return TokenLogprobs(
        token_id, float(values[token_id]), tuple((int(i), float(values[i])) for i in best)
    )
