# SPDX-License-Identifier: Apache-2.0
"""Chooses the tokens of one sequence, and remembers what penalties need."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import AdapmoeError, NonFiniteError
from adapmoe.logprobs import TokenLogprobs, token_logprobs
from adapmoe.penalties import add_bias, penalise_repetition, penalise_use
from adapmoe.sampling import Scores, choose, make_rng
from adapmoe.sampling_params import LogitsProcessor, SamplingParams


class Sampler:
    """One per sequence. `params` must have been checked against the vocabulary."""

    def __init__(self, prompt: NDArray[np.int32], params: SamplingParams) -> None:
        """`prompt`: int32 `[n]`."""
        self._params = params
        self._rng = make_rng(params.seed)
        self._token_ids: list[int] = prompt.tolist()
        self._seen = set(self._token_ids)
        self._uses: Counter[int] = Counter()

    def next(self, logits: NDArray[np.float32]) -> tuple[int, TokenLogprobs | None]:
        """Choose the next token.

        Args:
            logits: float32 `[vocab_size]`, as prefill and decode return them.

        Returns:
            The token id, and its log-probabilities if `params.logprobs` asks for them.

        Raises:
            NonFiniteError: the logits are not finite.
            AdapmoeError: bias and processors have banned every token.
            ValueError: a logits processor returned something else than logits.
        """
        if not np.isfinite(logits.max()):
            raise NonFiniteError("the logits are not finite")
        scores = self._adjust(logits.astype(np.float64))
        if not np.isfinite(scores.max()):
            raise AdapmoeError(
                "no token is left to choose: logit_bias or a logits processor banned all of them "
                "or made a score NaN or +inf"
            )
        token_id = choose(scores, self._params, self._rng)
        self._token_ids.append(token_id)
        self._seen.add(token_id)
        self._uses[token_id] += 1
        wanted = self._params.logprobs
        return token_id, None if wanted is None else token_logprobs(logits, token_id, wanted)

    def _adjust(self, scores: Scores) -> Scores:
        """Bias, penalties and processors, in the order of transformers' generate."""
        params = self._params
        scores = add_bias(scores, params.logit_bias)
        if params.repetition_penalty != 1:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            scores = penalise_repetition(scores, seen, params.repetition_penalty)
        scores = penalise_use(scores, self._uses, params.presence_penalty, params.frequency_penalty)
        for processor in params.logits_processors:
            scores = self._process(processor, scores)
        return scores

    def _process(self, processor: LogitsProcessor, scores: Scores) -> Scores:
        changed = processor(list(self._token_ids), scores.astype(np.float32))
        if not isinstance(changed, np.ndarray) or changed.shape != scores.shape:
            raise ValueError(
                f"a logits processor must return an array of shape {scores.shape}, "
                f"not {getattr(changed, 'shape', type(changed).__name__)}"
            )
        return changed.astype(np.float64)
