# SPDX-License-Identifier: Apache-2.0
"""An open pack with its tokenizer: from prompts and messages to text."""

import os
from collections.abc import Mapping
from collections.abc import Sequence as ItemSequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from adapmoe import checks
from adapmoe.errors import PackError
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.request import GenerationResult
from adapmoe.generation.scheduler import StepLoop
from adapmoe.generation.sequence import TokenIds, as_token_ids
from adapmoe.generation.stream import AsyncGenerationStream, GenerationStream, Worker
from adapmoe.step_level import StepLevel
from adapmoe.text.chat_template import ChatTemplates, Message
from adapmoe.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from adapmoe import _core

Prompts = str | TokenIds | list[str] | list[list[int]]


class TextLevel(StepLevel):
    """What `LLM` offers besides opening."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        session: "_core.Session",
        prefill_chunk: int,
        tokenizer: Tokenizer | None,
    ) -> None:
        """Use `LLM`."""
        super().__init__(path, session, prefill_chunk)
        self._tokenizer = tokenizer
        self._templates: ChatTemplates | None = None
        self._worker = Worker()

    @overload
    def generate(
        self,
        prompt: str | TokenIds,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
    ) -> GenerationResult: ...
    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
    ) -> list[GenerationResult]: ...
    @overload
    def generate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
    ) -> GenerationStream: ...
    def generate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
    ) -> GenerationResult | list[GenerationResult] | GenerationStream:
        """Continue one prompt or several.

        Args:
            prompt: text, token ids, or a list of either. Text gets the begin-of-sequence token.
            params: how to sample; None: greedy, up to 256 tokens.
            stream: return an iterator of chunks instead of waiting for the end.

        Returns:
            One result for one prompt, a list in the same order for a list, or a `GenerationStream`.

        Raises:
            ContextOverflowError: a prompt and its answer do not fit into max_context; no step has
                run.
            PackError: the pack has no tokenizer.
            ReadError: an expert could not be read.
            TypeError: a prompt that is neither text nor token ids, or params of another type.
            ValueError: token ids that are not in the vocabulary.
        """
        checks.flag("stream", stream)
        single, loop = self._prepare(prompt, params)
        chunks = GenerationStream(loop, self)
        if stream:
            return chunks
        results = _run_to_the_end(chunks)
        return results[0] if single else results

    def generate_async(
        self, prompt: Prompts, params: SamplingParams | None = None
    ) -> AsyncGenerationStream:
        """Continue one prompt or several without blocking the event loop.

        Example:
            async for chunk in llm.generate_async("The first law of robotics"):
                print(chunk.text, end="")

        Returns:
            An asynchronous iterator of chunks; its `results` are complete once it has ended.

        Raises what `generate` raises: what can be checked before any work at once, the rest while
        iterating.
        """
        return AsyncGenerationStream(self._prepare(prompt, params)[1], self)

    @overload
    def chat(
        self,
        messages: ItemSequence[Message],
        params: SamplingParams | None = None,
        *,
        chat_template: str | None = None,
        stream: Literal[False] = False,
    ) -> GenerationResult: ...
    @overload
    def chat(
        self,
        messages: ItemSequence[Message],
        params: SamplingParams | None = None,
        *,
        chat_template: str | None = None,
        stream: Literal[True],
    ) -> GenerationStream: ...
    def chat(
        self,
        messages: ItemSequence[Message],
        params: SamplingParams | None = None,
        *,
        chat_template: str | None = None,
        stream: bool = False,
    ) -> GenerationResult | GenerationStream:
        """Answer a conversation, put into text by the model's chat template.

        Args:
            messages: `{"role": "user", "content": "..."}` and so on, oldest first; which roles
                there are, and in what order, is up to the template.
            params: how to sample; None: greedy, up to 256 tokens.
            chat_template: a Jinja template instead of the pack's, or the name of one of the pack's.
            stream: return an iterator of chunks instead of waiting for the end.

        Returns:
            The answer, or a `GenerationStream` of it.

        Raises:
            ChatTemplateError: there is no template, or it refuses these messages.
            TypeError, ValueError: `messages` are not messages.
            ContextOverflowError, PackError, ReadError: as `generate`; overflow before any work.
        """
        checks.flag("stream", stream)
        chunks = GenerationStream(self._prepare_chat(messages, params, chat_template), self)
        return chunks if stream else _run_to_the_end(chunks)[0]

    def chat_async(
        self,
        messages: ItemSequence[Message],
        params: SamplingParams | None = None,
        *,
        chat_template: str | None = None,
    ) -> AsyncGenerationStream:
        """`chat` without blocking the event loop; see `generate_async`."""
        return AsyncGenerationStream(self._prepare_chat(messages, params, chat_template), self)

    def chat_prompt(
        self, messages: ItemSequence[Message], *, chat_template: str | None = None
    ) -> list[int]:
        """Token ids of the prompt that `chat` would continue. Raises what `chat` raises."""
        text = self.chat_templates.render(messages, chat_template)
        return self.tokenizer.encode(text, add_bos=False)  # the template writes it if it wants it

    def _prepare_chat(
        self,
        messages: ItemSequence[Message],
        params: SamplingParams | None,
        chat_template: str | None,
    ) -> StepLoop:
        prompt = self.chat_prompt(messages, chat_template=chat_template)
        return self._prepare(prompt, params, answers=True)[1]

    def _prepare(
        self, prompt: Prompts, params: SamplingParams | None, *, answers: bool = False
    ) -> tuple[bool, StepLoop]:
        """Whether it is one prompt, and its loop; all that can be refused is refused here."""
        single = _is_single(prompt)
        if single:
            encoded = [self._encode("prompt", prompt)]
        else:
            encoded = [self._encode(f"prompt[{at}]", one) for at, one in enumerate(prompt)]
        return single, StepLoop(self, encoded, SamplingParams.of(params), answers=answers)

    def _encode(self, name: str, prompt: Any) -> NDArray[np.int32]:
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode(checks.text(name, prompt))
        return as_token_ids(prompt, self.vocab_size, name)

    @property
    def chat_templates(self) -> ChatTemplates:
        """The chat templates of the pack, perhaps none. Raises PackError if they are damaged."""
        if self._templates is None:
            self._templates = ChatTemplates.from_pack(self._path)
        return self._templates

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the pack. Raises PackError where there is none."""
        if self._tokenizer is None:
            raise PackError(
                f"{self._path / 'tokenizer.json'}: missing; use new_sequence with token ids"
            )
        return self._tokenizer

    def close(self) -> None:
        """Close all sequences and give all memory back, after a step that is running.

        A generation in another thread ends with ClosedError. Closing twice is harmless.
        """
        super().close()
        self._worker.close()


def _run_to_the_end(chunks: GenerationStream) -> list[GenerationResult]:
    with chunks:
        for _ in chunks:
            pass
    return chunks.results


def _is_single(prompt: Any) -> bool:
    """Text or one row of token ids, not a list of them. An empty list is a list of no prompts."""
    if isinstance(prompt, str):
        return True
    listed = hasattr(prompt, "__getitem__") and getattr(prompt, "ndim", 1) > 0
    if not listed or isinstance(prompt, bytes | bytearray | Mapping):
        raise checks.wrong_type("prompt", "text, token ids, or a list of either", prompt)
    if len(prompt) == 0:
        return False
    first = prompt[0]
    return not isinstance(first, str | ItemSequence) and getattr(first, "ndim", 0) == 0
