# SPDX-License-Identifier: Apache-2.0
"""The state of one generation: from logits to a token, from tokens to text, and when to end."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import ContextOverflowError
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.sampling import Sampler, TokenLogprobs
from adapmoe.generation.stats import GenerationStats
from adapmoe.text.tokenizer import StreamDecoder, Tokenizer


class StopMatcher:
    """Passes text on, except stop strings and what may still become one.

    Stop strings are compared with what the model wrote, including special tokens, which are not
    shown: "<|im_end|>" can be a stop string or part of one, and a special token in the middle of a
    stop string keeps it from matching.

    The result does not depend on how the text is cut into pieces: the stop string that is complete
    first ends the text; of several that are complete at the same character, the longest does.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops`: non-empty strings; may be empty."""
        self._stops = tuple(stops)
        self._held = ""
        self._shown: list[bool] = []  # of each held character
        self.found: str | None = None  # the stop string that ended the text

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been seen. No text follows after that."""
        return self.found is not None

    def push(self, text: str, *, shown: bool = True) -> str:
        """Take more text; return what certainly comes before any stop string.

        `shown`: False for special tokens, whose text is compared but not returned.
        """
        if self.stopped:
            return ""
        self._held += text
        self._shown += [shown] * len(text)
        found = self._find(self._held)
        if found is not None:
            begin, self.found = found
            passed, self._held, self._shown = self._release(begin), "", []
            return passed
        return self._release(len(self._held) - self._possible_beginning(self._held))

    def flush(self) -> str:
        """Return what was held back: the text ends here, so it was not a stop string."""
        return self._release(len(self._held))

    def _release(self, length: int) -> str:
        """Release the first `length` held characters; return those that are shown."""
        passed = "".join(compress(self._held[:length], self._shown))
        self._held = self._held[length:]
        del self._shown[:length]
        return passed

    def _find(self, text: str) -> tuple[int, str] | None:
        """Where the first complete stop string begins, and which one it is."""
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        return min(found, key=lambda at: (at[0] + len(at[1]), at[0]), default=None)

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest suffix of `text` with which a stop string begins."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


DEFAULT_MAX_TOKENS = 256
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class GenerationResult:
    """One finished (or interrupted) generation.

    Attributes:
        text: the generated text, without the prompt, special tokens and the stop string. `generate`
            continues the prompt's text, so a leading space stays; an answer of `chat` is a text of
            its own, and some tokenizers drop its leading space, as in `transformers`.
        token_ids: the generated tokens, including an end-of-sequence token.
        prompt_tokens: number of tokens in the prompt.
        finish_reason: "stop" (end-of-sequence token, stop token or stop string), "length", or None
            if interrupted.
        stats: what it cost.
        logprobs: one per token of `token_ids`; None unless `SamplingParams.logprobs` asks for them.
        stop_string: the one of `SamplingParams.stop` that ended the text; None if none did.
    """

    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: FinishReason | None
    stats: GenerationStats
    logprobs: list[TokenLogprobs] | None = None
    stop_string: str | None = None


@dataclass(frozen=True)
class GenerationChunk:
    """A piece of streamed text.

    Attributes:
        index: which prompt of the list it belongs to.
        text: the text since the last chunk, in whole characters.
        token_ids: the tokens since the last chunk.
        finish_reason: None until the last chunk of this prompt.
        logprobs: one per token of `token_ids`; None unless `SamplingParams.logprobs` asks for them.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    logprobs: list[TokenLogprobs] | None = None


def token_limit(prompt_tokens: int, max_tokens: int | None, max_context: int) -> int:
    """How many tokens to generate so that prompt and answer fit into the context.

    Raises:
        ContextOverflowError: an explicit `max_tokens`, or the prompt alone, does not fit.
    """
    room = max_context - prompt_tokens
    if room < 1:
        raise ContextOverflowError(
            f"the prompt has {prompt_tokens} tokens, max_context is {max_context}: nothing can be "
            "generated; shorten the prompt or raise max_context"
        )
    if max_tokens is None:
        return min(DEFAULT_MAX_TOKENS, room)
    if max_tokens > room:
        raise ContextOverflowError(
            f"{prompt_tokens} prompt tokens + max_tokens {max_tokens} = "
            f"{prompt_tokens + max_tokens} is more than max_context {max_context}; "
            f"lower max_tokens to {room} or raise max_context"
        )
    return max_tokens


class Request:
    """The state of one generation: tokens and text so far, sampler, stop strings.

    `finish_reason` is None until it ends. `throttle_counts`: the machine's when it began.
    """

    def __init__(
        self,
        index: int,
        prompt: NDArray[np.int32],
        params: SamplingParams,
        limit: int,
        tokenizer: Tokenizer,
        *,
        answers: bool = False,
        shown: frozenset[str] = frozenset(),
    ) -> None:
        """Take a prompt.

        Args:
            index: which of several prompts this is.
            prompt: int32 `[n]`.
            params: how to sample.
            limit: most tokens to generate, from `token_limit`.
            tokenizer: the model's.
            answers: the text is an answer, not a continuation of the prompt's text.
            shown: special tokens, by their text, that are part of the text.
        """
        self.index = index
        self.prompt = prompt
        self.stats = GenerationStats()
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[TokenLogprobs] | None = None if params.logprobs is None else []
        self.throttle_counts: dict[str, int] | None = None
        self._limit = limit
        self._shown = shown
        self._eos_ids = frozenset() if params.ignore_eos else tokenizer.eos_ids
        self._stop_ids = frozenset(params.stop_token_ids)
        self._sampler = Sampler(prompt, params)
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer, () if answers else prompt.tolist())
        self._stop = StopMatcher(params.stop_strings)
        self._text: list[str] = []
        self._sent_tokens = 0
        self._sent_texts = 0

    def missing(self, length: int) -> NDArray[np.int32]:
        """The tokens that a sequence holding the first `length` of this request's still lacks.

        A prompt, the rest of one, the last token, or, where the sequence had to be given up, all of
        them again: one rule for all. After the last of them comes the next token.
        """
        rest = self.prompt[length:]
        if not self.token_ids:
            return rest
        new = self.token_ids[max(length - len(self.prompt), 0) :]
        return np.concatenate([rest, np.array(new, np.int32)])

    def advance(self, logits: NDArray[np.float32]) -> None:
        """Sample the next token from float32 `[vocab_size]` logits and add it to the text."""
        token_id, logprobs = self._sampler.next(logits)
        self.token_ids.append(token_id)
        if self.logprobs is not None and logprobs is not None:
            self.logprobs.append(logprobs)
        self._take(token_id)
        if self._stop.stopped or token_id in self._eos_ids | self._stop_ids:
            self.finish_reason = "stop"
        elif len(self.token_ids) == self._limit:
            self.finish_reason = "length"
        if self.finish_reason:
            self._text.append(self._stop.push(self._decoder.flush()))
            self._text.append(self._stop.flush())

    def _take(self, token_id: int) -> None:
        """Add a token to the text; that of special tokens is only compared with stop strings."""
        special = self._tokenizer.special_text(token_id)
        if special is not None:
            self._text.append(self._stop.push(special, shown=special in self._shown))
        elif token_id not in self._stop_ids:
            self._text.append(self._stop.push(self._decoder.push(token_id)))

    def take_chunk(self) -> GenerationChunk | None:
        """What is new since the last call; None if that is not a whole character."""
        text = "".join(self._text[self._sent_texts :])
        if not text and not self.finish_reason:
            return None
        tokens = self.token_ids[self._sent_tokens :]
        logprobs = None if self.logprobs is None else self.logprobs[self._sent_tokens :]
        self._sent_tokens, self._sent_texts = len(self.token_ids), len(self._text)
        return GenerationChunk(self.index, text, tokens, self.finish_reason, logprobs)

    def result(self) -> GenerationResult:
        """Everything generated so far."""
        return GenerationResult(
            "".join(self._text),
            list(self.token_ids),
            len(self.prompt),
            self.finish_reason,
            self.stats,
            None if self.logprobs is None else list(self.logprobs),
            self._stop.found,
        )
