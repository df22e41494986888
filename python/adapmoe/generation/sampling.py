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

# Overflow and underflow are what the limits are made of. As a decorator, so that it holds for one
# function and never for what a caller's logits processor does.
limits = np.errstate(over="ignore", under="ignore")


def make_rng(seed: int | None) -> np.random.Generator:
    """One generator per sequence, so that what a batch contains does not change what is drawn."""
    return np.random.Generator(np.random.PCG64(seed))


def greedy(scores: Scores) -> int:
    """Return the index of the highest score, the lowest index where several are equal."""
    return int(np.argmax(scores))


@limits
def apply_temperature(scores: Scores, temperature: float) -> Scores:
    """Divide by `temperature` > 0.

    Where the highest score would overflow, the distance from it is divided instead: that has the
    same probabilities, and leaves 0 for the highest and -inf for what is too far below.
    """
    scaled = np.asarray(scores / temperature, dtype=np.float64)
    if np.isfinite(scaled.max()):
        return scaled
    return np.asarray((scores - scores.max()) / temperature, dtype=np.float64)


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


@limits
def probabilities(scores: Scores) -> Scores:
    """Softmax. Needs at least one finite score."""
    weights = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


@limits
def log_softmax(logits: NDArray[np.floating]) -> Scores:
    """Natural logarithm of softmax, in float64, of one row `[vocab_size]` or of several."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores


@limits
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


_LARGEST = float(np.finfo(np.float64).max)


@limits
def add_bias(scores: Scores, bias: Mapping[int, float]) -> Scores:
    """Add `bias[token_id]` to the scores of the tokens it names."""
    if not bias:
        return scores
    changed: Scores = scores.copy()
    ids = list(bias)
    values = np.fromiter(bias.values(), np.float64, len(bias))
    biased = _finite(scores[ids], scores[ids] + values)
    changed[ids] = np.where(np.isneginf(values), -np.inf, biased)
    return changed


@limits
def penalise_repetition(scores: Scores, seen: NDArray[np.integer], penalty: float) -> Scores:
    """Make the tokens `seen`, ids in any number and order, less likely; a penalty below 1: more."""
    if penalty == 1 or seen.size == 0:
        return scores
    changed: Scores = scores.copy()
    before = scores[seen]
    changed[seen] = _finite(before, np.where(before < 0, before * penalty, before / penalty))
    return changed


@limits
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
    ids = list(uses)
    counts = np.fromiter(uses.values(), np.float64, len(uses))
    # Clipped first: of a banned token, -inf - -inf would be NaN.
    penalty = np.clip(presence + frequency * counts, -_LARGEST, _LARGEST)
    changed[ids] = _finite(scores[ids], scores[ids] - penalty)
    return changed


def _finite(before: Scores, after: Scores) -> Scores:
    """`after`, held inside float64, but -inf where `before` was."""
    return np.where(np.isneginf(before), -np.inf, np.clip(after, -_LARGEST, _LARGEST))


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
            AdapmoeError: a logits processor returned NaN or +inf; or bias and processors have
                banned every token.
            TypeError: a logits processor returned something else than an array of numbers.
            ValueError: a logits processor returned an array of another shape.
        """
        if not np.isfinite(logits.max()):
            raise NonFiniteError("the logits are not finite")
        scores = self._adjust(logits.astype(np.float64))
        if np.isneginf(scores.max()):
            raise AdapmoeError(
                "no token is left to choose: logit_bias or a logits processor banned all of them"
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
        changed = processor(list(self._token_ids), _as_float32(scores))
        wanted = f"a logits processor must return an array of shape {scores.shape}"
        if not isinstance(changed, np.ndarray):
            raise TypeError(f"{wanted}, not {type(changed).__name__}")
        # By kind, because integers and other floats have all that is needed; booleans are a mask.
        if changed.dtype.kind not in "fiu":
            raise TypeError(f"{wanted} of numbers, not of {changed.dtype}")
        if changed.shape != scores.shape:
            raise ValueError(f"{wanted}, not {changed.shape}")
        with np.errstate(over="ignore"):  # of a longdouble; the result is +inf or a ban
            found = changed.astype(np.float64)
        if not found.max() < np.inf:
            raise AdapmoeError("a logits processor made a logit NaN or +inf; -inf bans a token")
        return found


def _as_float32(scores: Scores) -> NDArray[np.float32]:
    """A copy for logits processors: a huge bias becomes the largest float32, a ban stays -inf."""
    largest = float(np.finfo(np.float32).max)
    held = np.clip(scores, -largest, largest)
    return np.where(np.isneginf(scores), -np.inf, held).astype(np.float32)
