# SPDX-License-Identifier: Apache-2.0
"""A chat of many turns that computes only what is new in each."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import ContextOverflowError
from adapmoe.generate import GenerationStream
from adapmoe.generation import GenerationChunk, GenerationResult
from adapmoe.sampling_params import SamplingParams
from adapmoe.sequence import as_token_ids
from adapmoe.step_loop import StepLoop
from adapmoe.tokenizer import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from adapmoe.llm import LLM

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class _Past:
    """What the model has read and written up to the end of an answer.

    Attributes:
        text: the prompt, and the answer as it reads after it.
        text_as_shown: the prompt, and the answer as it reads alone, which may lack its first space.
        ids: the prompt's tokens, and those that the model chose.
    """

    text: str
    text_as_shown: str
    ids: Ids

    def rest_of(self, text: str) -> str | None:
        """What follows in a text that begins with this one; None: it begins otherwise."""
        for past in (self.text, self.text_as_shown):
            if text.startswith(past):
                return text[len(past) :]
        return None


class Conversation:
    """Messages and the sequence that holds them.

    Every turn renders the whole conversation. The text decides: the longest beginning of it that
    the model has read and written already, up to the end of an answer that a special token follows,
    keeps its tokens, and only what follows is tokenized. Without such a beginning, as where the
    template changes an earlier answer or separates turns by ordinary text, the whole text is
    tokenized. Either way the tokens that the prompt has in common with the KV cache stay there; the
    others are dropped and computed.

    So an answer is what `LLM.chat` would give for the same messages, bit by bit, as long as the
    tokenizer cuts the earlier answers the way the model wrote them. Where a model spells a word in
    other tokens than the tokenizer would, the conversation keeps the model's own; `LLM.chat`, which
    knows the text only, cannot.
    """

    def __init__(
        self, llm: "LLM", *, system: str | None = None, chat_template: str | None = None
    ) -> None:
        """Take a place for a sequence; `close` gives it back.

        Args:
            llm: the model.
            system: what the system message says; None: there is none.
            chat_template: as `LLM.chat`.

        Raises:
            AdapmoeError: all places are taken.
            ChatTemplateError: there is no such template.
        """
        llm.chat_templates.find(chat_template)
        self.system = system
        self.last: GenerationResult | None = None
        self._llm = llm
        self._chat_template = chat_template
        self._turns: list[dict[str, str]] = []
        self._sequence = llm.new_sequence()
        self._cached: Ids = np.zeros(0, np.int32)
        self._pasts: list[_Past] = []  # every one begins with the ones before

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages so far, the system message first if there is one."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*first, *self._turns]

    @property
    def cached_tokens(self) -> int:
        """Tokens in the KV cache."""
        return len(self._cached)

    def reset(self) -> None:
        """Forget all messages but the system message."""
        self._turns = []

    def ask(self, text: str, params: SamplingParams) -> Generator[GenerationChunk, None, None]:
        """Say something and iterate over the answer; `last` is its result.

        An answer that was left early (by closing the iterator, or an exception) stays in the
        conversation as far as it came. If no token was generated, the question is dropped too.

        Args:
            text: the user's message.
            params: how to answer; `max_tokens` None or too large: until the context is full.

        Raises:
            ContextOverflowError: not even one more token fits; nothing was computed.
            ChatTemplateError: the template refuses the conversation.
            PackError: the text needs a token that the model has no embedding for.
            ReadError: as `LLM.generate`.
        """
        question = {"role": "user", "content": text}
        rendered = self._llm.chat_templates.render([*self.messages, question], self._chat_template)
        prompt = self._tokens_of(rendered)
        room = self._llm.max_context - len(prompt)
        if room < 1:
            raise ContextOverflowError(
                f"the conversation would have {len(prompt)} tokens, max_context is "
                f"{self._llm.max_context}; begin a new one (/reset) or raise max_context"
            )
        params = replace(params, max_tokens=min(params.max_tokens or room, room))
        loop = StepLoop(self._llm, [prompt], params, self._sequence, answers=True)
        self._keep_common_prefix(prompt)
        stream = GenerationStream(loop, self._llm)
        try:
            yield from stream
        finally:
            self.last = result = stream.results[0]
            tokens = np.concatenate([prompt, np.array(result.token_ids, np.int32)])
            self._cached = tokens[: self._sequence.length]
            if result.token_ids:
                self._turns += [question, {"role": "assistant", "content": result.text}]
                self._pasts += _pasts(self._llm.tokenizer, rendered, prompt, result)

    @property
    def context_full(self) -> bool:
        """Whether the last answer ended because the context did."""
        last = self.last
        return (
            last is not None
            and last.finish_reason == "length"
            and last.prompt_tokens + len(last.token_ids) >= self._llm.max_context
        )

    def _tokens_of(self, rendered: str) -> Ids:
        """Tokens of a conversation as text, those of its past as they were."""
        tokenizer = self._llm.tokenizer
        while self._pasts:
            past = self._pasts[-1]
            rest = past.rest_of(rendered)
            if rest is not None and tokenizer.begins_at_boundary(rest):
                new = as_token_ids(tokenizer.encode(rest, add_bos=False), self._llm.vocab_size)
                return np.concatenate([past.ids, new])
            self._pasts.pop()
        ids = tokenizer.encode(rendered, add_bos=False)  # the template writes it if it wants it
        return as_token_ids(ids, self._llm.vocab_size)

    def _keep_common_prefix(self, prompt: Ids) -> None:
        """Truncate the sequence to what `prompt` begins with, and leave at least one to compute."""
        length = min(len(self._cached), len(prompt) - 1)
        different = np.flatnonzero(self._cached[:length] != prompt[:length])
        common = int(different[0]) if different.size else length
        self._sequence.truncate(common)
        self._cached = prompt[:common]

    def close(self) -> None:
        """Give the place back."""
        self._sequence.close()

    def __enter__(self) -> "Conversation":
        """Return itself."""
        return self

    def __exit__(self, *exception: Any) -> None:  # noqa: ANN401
        """Close."""
        self.close()


def _pasts(
    tokenizer: Tokenizer, rendered: str, prompt: Ids, result: GenerationResult
) -> list[_Past]:
    """The past up to the end of this answer, and before it that without the blanks at the end.

    Many templates trim messages.
    """
    pasts = []
    for answer in dict.fromkeys([result.text.rstrip(), result.text]):
        count = _tokens_that_say(tokenizer, answer, result.token_ids)
        if count is not None:
            chosen = result.token_ids[:count]
            in_place = tokenizer.decode(chosen, context=prompt.tolist())
            ids = np.concatenate([prompt, np.array(chosen, np.int32)])
            pasts.append(_Past(rendered + in_place, rendered + answer, ids))
    return pasts


def _tokens_that_say(tokenizer: Tokenizer, text: str, token_ids: list[int]) -> int | None:
    """How many of the tokens are exactly `text`.

    None if it ends within a token, or the model wrote special tokens in between.
    """
    decoder = StreamDecoder(tokenizer)
    said, count = "", 0
    for token_id in token_ids:
        if len(said) >= len(text) or tokenizer.special_text(token_id) is not None:
            break
        said += decoder.push(token_id)
        count += 1
    return count if said == text and not decoder.flush() else None
