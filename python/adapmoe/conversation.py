# SPDX-License-Identifier: Apache-2.0
"""A chat of several turns that computes only what is new in each turn."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapmoe import checks
from adapmoe.errors import ContextOverflowError
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.request import GenerationChunk, GenerationResult
from adapmoe.generation.sequence import as_token_ids
from adapmoe.generation.stream import GenerationStream
from adapmoe.machine.process import NotCopied
from adapmoe.text.tokenizer import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from adapmoe.llm import LLM

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class _Past:
    """What the model has read and written, up to the end of one answer.

    Attributes:
        prompt: the text it read.
        answer: the text it wrote.
        ids: the tokens of both, as the model saw them.
    """

    prompt: str
    answer: str
    ids: Ids

    def end_in(self, text: str) -> int | None:
        """Where the answer ends in a text that begins with this past; None if it does not.

        White space around the answer may differ: templates trim answers, or put a space or newline
        before them that the prompt did not end with. But there may be no new white space after it.
        """
        begin = self.prompt.rstrip()
        if not text.startswith(begin):
            return None
        rest = text[len(begin) :].lstrip()
        said = self.answer.strip()
        if not rest.startswith(said):
            return None
        after = rest[len(said) :]
        blanks = after[: len(after) - len(after.lstrip())]
        allowed = self.answer[len(self.answer.rstrip()) :]
        return len(text) - len(after) + len(blanks) if allowed.startswith(blanks) else None


class Conversation(NotCopied):
    """The messages of a chat, and the sequence that holds their tokens.

    Every turn renders the whole conversation. The part that the model has already read and written,
    up to the end of an answer, keeps its tokens (white space around the answer may differ); only
    the text after it is tokenized. Tokens that the prompt has in common with the KV cache stay
    there, and only the others are computed.

    An answer is, bit for bit, what `LLM.chat` would give for the same messages if tokenizing them
    gave the tokens that the model read and wrote. If not (the model spelled a word in other tokens
    than the tokenizer would, or the template repeats its answer with other white space), the
    conversation continues from the model's own tokens, which `LLM.chat` cannot know.
    """

    def __init__(
        self, llm: "LLM", *, system: str | None = None, chat_template: str | None = None
    ) -> None:
        """Take a slot for a sequence; `close` gives it back.

        Args:
            llm: the model.
            system: the system message; None: there is none.
            chat_template: as `LLM.chat`.

        Raises:
            AdapmoeError: all slots are taken.
            ChatTemplateError: there is no such template.
            TypeError: `system` or `chat_template` is not text.
        """
        checks.optional(checks.text, "system", system)
        llm.chat_templates.find(chat_template)
        self.system = system
        self.last: GenerationResult | None = None
        self._llm = llm
        self._chat_template = chat_template
        self._turns: list[dict[str, str]] = []
        self._sequence = llm.new_sequence()
        self._cached: Ids = np.zeros(0, np.int32)
        self._pasts: list[_Past] = []  # each begins with the one before

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages so far, beginning with the system message if there is one."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*first, *self._turns]

    @property
    def cached_tokens(self) -> int:
        """Tokens in the KV cache."""
        return len(self._cached)

    def reset(self) -> None:
        """Forget all messages except the system message."""
        self._turns = []

    def ask(self, text: str, params: SamplingParams) -> Generator[GenerationChunk, None, None]:
        """Send a message and iterate over the answer; `last` is its result.

        If the iterator is closed early or an exception ends it, the part of the answer so far stays
        in the conversation. If no token was generated, the question is dropped too.

        Args:
            text: the user's message.
            params: how to answer. If `max_tokens` is None or too large: until the context is full.

        Raises:
            ContextOverflowError: not even one more token fits; nothing was computed.
            ChatTemplateError: the template refuses the conversation.
            PackError: the text needs a token that the model has no embedding for.
            ReadError: as `LLM.generate`.
        """
        params = SamplingParams.of(params)
        question = {"role": "user", "content": checks.text("text", text)}
        rendered = self._llm.chat_templates.render([*self.messages, question], self._chat_template)
        prompt = self._tokens_of(rendered)
        room = self._llm.max_context - len(prompt)
        if room < 1:
            raise ContextOverflowError(
                f"the conversation would have {len(prompt)} tokens, max_context is "
                f"{self._llm.max_context}; begin a new one (/reset) or raise max_context"
            )
        params = replace(params, max_tokens=min(params.max_tokens or room, room))
        stream = self._answer(prompt, params)
        self._keep_common_prefix(prompt)
        try:
            yield from stream
        finally:
            self.last = result = stream.results[0]
            tokens = np.concatenate([prompt, np.array(result.token_ids, np.int32)])
            self._cached = tokens[: self._sequence.length]
            if result.token_ids:
                self._turns += [question, {"role": "assistant", "content": result.text}]
                count = _tokens_of_text(self._llm.tokenizer, result)
                if count is not None:
                    ids = tokens[: len(prompt) + count]
                    self._pasts.append(_Past(rendered, result.text, ids))

    @property
    def context_full(self) -> bool:
        """Whether the last answer ended because the context was full."""
        last = self.last
        return (
            last is not None
            and last.finish_reason == "length"
            and last.prompt_tokens + len(last.token_ids) >= self._llm.max_context
        )

    def _tokens_of(self, rendered: str) -> Ids:
        """The tokens of a rendered conversation; its past keeps the tokens it had."""
        tokenizer = self._llm.tokenizer
        while self._pasts:
            past = self._pasts[-1]
            end = past.end_in(rendered)
            new = None if end is None else tokenizer.encode_rest(rendered, end)
            if new is not None:
                ids = [*past.ids.tolist(), *new]
                return as_token_ids(ids, self._llm.vocab_size)
            self._pasts.pop()
        ids = tokenizer.encode(rendered, add_bos=False)  # the template writes it if it wants it
        return as_token_ids(ids, self._llm.vocab_size)

    def _answer(self, prompt: Ids, params: SamplingParams) -> GenerationStream:
        """Stream the answer to a prompt, of which the sequence will hold the beginning."""
        llm = self._llm
        llm.log_notes()
        return GenerationStream(
            llm.scheduler.submit([prompt], params, llm.tokenizer, self._sequence, answers=True)
        )

    def _keep_common_prefix(self, prompt: Ids) -> None:
        """Truncate the sequence to what `prompt` begins with, leaving at least one token to do."""
        length = min(len(self._cached), len(prompt) - 1)
        different = np.flatnonzero(self._cached[:length] != prompt[:length])
        common = int(different[0]) if different.size else length
        self._sequence.truncate(common)
        self._cached = prompt[:common]

    def close(self) -> None:
        """Give the slot back."""
        self._sequence.close()

    def __enter__(self) -> "Conversation":
        """Return itself."""
        return self

    def __exit__(self, *exception: Any) -> None:
        """Close."""
        self.close()


def _tokens_of_text(tokenizer: Tokenizer, result: GenerationResult) -> int | None:
    """How many of the generated tokens make up the text, perhaps without white space at its end.

    None if the text ends inside a token, as before a stop string, or special tokens interrupt it.
    """
    decoder = StreamDecoder(tokenizer)
    said = ""
    found = None if result.text.strip() else 0
    for count, token_id in enumerate(result.token_ids, start=1):
        if tokenizer.special_text(token_id) is not None:
            break
        said += decoder.push(token_id)
        if not result.text.startswith(said):
            break
        if said.rstrip() == result.text.rstrip() and not decoder.has_part_of_character:
            found = count
    return found
