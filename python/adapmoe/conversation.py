# SPDX-License-Identifier: Apache-2.0
"""A chat of many turns that computes only what is new in each."""

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import ContextOverflowError
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.request import GenerationChunk, GenerationResult
from adapmoe.generation.scheduler import StepLoop
from adapmoe.generation.sequence import as_token_ids
from adapmoe.generation.stream import GenerationStream
from adapmoe.opened_in import NotCopied

if TYPE_CHECKING:
    from adapmoe.llm import LLM


class Conversation(NotCopied):
    """Messages and the sequence that holds them.

    Every turn renders the whole conversation; the tokens that it has in common with what is in the
    KV cache stay there, the others are dropped and computed. So the answer is what `LLM.chat` would
    give, bit by bit, whatever template and tokenizer make of the earlier turns.
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
        self._cached: NDArray[np.int32] = np.zeros(0, np.int32)

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
        conversation as far as it came; before its first token, so does not the question.

        Args:
            text: the user's message.
            params: how to answer; `max_tokens` None or too large: until the context is full.

        Raises:
            ContextOverflowError: not even one more token fits; nothing was computed.
            ChatTemplateError: the template refuses the conversation.
            ReadError: as `LLM.generate`.
        """
        question = {"role": "user", "content": text}
        prompt = self._prompt([*self.messages, question])
        room = self._llm.max_context - len(prompt)
        if room < 1:
            raise ContextOverflowError(
                f"the conversation would have {len(prompt)} tokens, max_context is "
                f"{self._llm.max_context}; begin a new one (/reset) or raise max_context"
            )
        params = replace(params, max_tokens=min(params.max_tokens or room, room))
        self._keep_common_prefix(prompt)
        stream = GenerationStream(StepLoop(self._llm, [prompt], params, self._sequence), self._llm)
        try:
            yield from stream
        finally:
            self.last = result = stream.results[0]
            tokens = np.concatenate([prompt, np.array(result.token_ids, np.int32)])
            self._cached = tokens[: self._sequence.length]
            if result.token_ids:
                self._turns += [question, {"role": "assistant", "content": result.text}]

    @property
    def context_full(self) -> bool:
        """Whether the last answer ended because the context did."""
        last = self.last
        return (
            last is not None
            and last.finish_reason == "length"
            and last.prompt_tokens + len(last.token_ids) >= self._llm.max_context
        )

    def _prompt(self, messages: list[dict[str, str]]) -> NDArray[np.int32]:
        ids = self._llm.chat_prompt(messages, chat_template=self._chat_template)
        return as_token_ids(ids, self._llm.vocab_size)

    def _keep_common_prefix(self, prompt: NDArray[np.int32]) -> None:
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

    def __exit__(self, *exception: Any) -> None:
        """Close."""
        self.close()
