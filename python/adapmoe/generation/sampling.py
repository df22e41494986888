# SPDX-License-Identifier: Apache-2.0
"""From logits to a token: penalties, bias, temperature, truncation, the draw, log-probabilities."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import AdapmoeError, NonFiniteError
from adapmoe.generation.params import LogitsProcessor, SamplingParams

Scores = NDArray[np.float64]


def make_rng(seed: int | None) -> np.random.Generator:
    """One generator per sequence, so that what a batch contains does not change what is drawn."""
    return np.random.Generator(np.random.PCG64(seed))


def greedy(scores: Scores) -> int:
    """Return the index of the highest score, the lowest index where several are equal."""
    return int(np.argmax(scores))


def apply_temperature(scores: Scores, temperature: float) -> Scores:
    """Divide by `temperature` > 0."""
    return np.asarray(scores / temperature, dtype=np.float64)


def keep_top_k(scores: Scores, top_k: int) -> Scores:
    """Keep what is not below the k-th highest; ties at the border all stay. 0: keep all."""
    if top_k == 0 or top_k >= scores.size:
        return scores
    border = np.partition(scores, scores.size - top_k)[scores.size - top_k]
    return np.where(scores < border, -np.inf, scores)


def keep_top_p(scores: Scores, top_p: float) -> Scores:
    """Keep the fewest tokens whose probabilities reach `top_p`, at least one. 1: keep all."""
    if top_p == 1:
        return scores
    ascending = np.argsort(scores, kind="stable")
    # Summed from the least likely upwards: what is dropped are the tails that fit into 1 - top_p.
    tail = np.cumsum(probabilities(scores)[ascending])
    dropped = ascending[:-1][tail[:-1] <= 1 - top_p]
    kept: Scores = scores.copy()
    kept[dropped] = -np.inf
    return kept


def keep_min_p(scores: Scores, min_p: float) -> Scores:
    """Keep what is at least `min_p` times as likely as the most likely token. 0: keep all."""
    if min_p == 0:
        return scores
    probs = probabilities(scores)
    return np.where(probs < min_p * probs.max(), -np.inf, scores)


def probabilities(scores: Scores) -> Scores:
    """Softmax. Needs at least one finite score."""
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def draw(probs: Scores, rng: np.random.Generator) -> int:
    """Draw one index by inverting the cumulative distribution; consumes one number of `rng`."""
    cumulative = np.cumsum(probs)
    index = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    # Rounding may put the point on the upper end, past the last token that has any probability.
    return min(index, int(np.flatnonzero(probs)[-1]))


def warp(scores: Scores, params: SamplingParams) -> Scores:
    """Temperature, top-k, top-p, min-p. `params.temperature` must not be 0."""
    scores = apply_temperature(scores, params.temperature)
    scores = keep_top_k(scores, params.top_k)
    scores = keep_top_p(scores, params.top_p)
    return keep_min_p(scores, params.min_p)


def choose(scores: Scores, params: SamplingParams, rng: np.random.Generator) -> int:
    """Choose a token: the best at temperature 0, which leaves `rng` untouched, or else a draw."""
    if params.temperature == 0:
        return greedy(scores)
    return draw(probabilities(warp(scores, params)), rng)


def add_bias(scores: Scores, bias: Mapping[int, float]) -> Scores:
    """Add `bias[token_id]` to the scores of the tokens it names."""
    if not bias:
        return scores
    changed: Scores = scores.copy()
    changed[list(bias)] += np.fromiter(bias.values(), np.float64, len(bias))
    return changed


def penalise_repetition(scores: Scores, seen: NDArray[np.integer], penalty: float) -> Scores:
    """Make the tokens `seen`, ids in any number and order, less likely; a penalty below 1: more."""
    if penalty == 1 or seen.size == 0:
        return scores
    changed: Scores = scores.copy()
    changed[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    return changed


def penalise_use(
    scores: Scores, uses: Mapping[int, int], presence: float, frequency: float
) -> Scores:
    """Subtract `presence + frequency * uses` from the scores of tokens used at least once.

    Args:
        scores: float64 `[vocab_size]`.
        uses: how often each token was generated; tokens that were not are absent.
        presence: subtracted once.
        frequency: subtracted per use.
    """
    if not uses or (presence == 0 and frequency == 0):
        return scores
    changed: Scores = scores.copy()
    counts = np.fromiter(uses.values(), np.float64, len(uses))
    changed[list(uses)] -= presence + frequency * counts
    return changed


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


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Natural logarithm of softmax, in float64, of one row `[vocab_size]`."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    return np.asarray(scores - np.log(np.exp(scores).sum()), dtype=np.float64)


def token_logprobs(logits: NDArray[np.float32], token_id: int, count: int) -> TokenLogprobs:
    """Look up one token and the `count` best in float32 `[vocab_size]` logits of the model."""
    values = log_softmax(logits)
    best = np.argsort(-values, kind="stable")[:count] if count else ()
    return TokenLogprobs(
        token_id, float(values[token_id]), tuple((int(i), float(values[i])) for i in best)
    )


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
