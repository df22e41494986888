# SPDX-License-Identifier: Apache-2.0
"""What stands between the HTTP APIs and the engine that computes their answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import AdapmoeError
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.request import GenerationChunk, GenerationResult
from adapmoe.llm import LLM
from adapmoe.serve.constraint import Constraints


class QueueFullError(AdapmoeError):
    """As many requests wait as may; `retry_after`: seconds until it is worth to try again."""

    def __init__(self, message: str, retry_after: int) -> None:
        """`retry_after`: whole seconds, at least 1."""
        super().__init__(message)
        self.retry_after = retry_after


class RequestTimeoutError(AdapmoeError):
    """A request took longer than the server lets one take."""


@dataclass(frozen=True)
class Ask:
    """What to ask the engine for: a prompt, and how to continue it once or several times.

    Attributes:
        prompt: int32 `[n]`.
        params: one per choice; where a seed is given, that of choice i is the seed + i.
        key: name of the API key, "" without keys; prefixes are shared within one key only.
        answers: the text is an answer of a chat, not a continuation of the prompt's text.
        shown_special: special tokens whose text belongs to the answer's text, to be parsed.
    """

    prompt: NDArray[np.int32]
    params: tuple[SamplingParams, ...]
    key: str
    answers: bool = True
    shown_special: frozenset[str] = frozenset()


class Answering(Protocol):
    """The choices of one request while they are computed: an asynchronous iterator of chunks.

    `GenerationChunk.index` is the choice, counted through all prompts of the request. Whoever stops
    before the end must call `aclose`.
    """

    @property
    def results(self) -> list[GenerationResult]:
        """One result per choice; complete once the iterator has ended."""

    @property
    def prompt_tokens(self) -> int:
        """The tokens of the prompts; one with several choices counts once."""

    @property
    def cached_tokens(self) -> int:
        """How many of them were taken over from an earlier request."""

    def __aiter__(self) -> "Answering":
        """Return itself."""

    async def __anext__(self) -> GenerationChunk:
        """The next piece of any choice.

        Raises:
            AdapmoeError: what ended the request early; `RequestTimeoutError` when it took too long.
            StopAsyncIteration: all choices have ended.
        """

    async def aclose(self) -> None:
        """Cancel what is left, within one step. Closing twice is harmless."""


class Service(Protocol):
    """What the APIs need of a server."""

    @property
    def llm(self) -> LLM:
        """The open model."""

    @property
    def model_name(self) -> str:
        """The name that requests must give as `model`."""

    @property
    def constraints(self) -> Constraints:
        """Makes grammars of schemas and tools."""

    @property
    def max_prompt(self) -> int:
        """Most tokens in a prompt."""

    def answer(self, asks: Sequence[Ask]) -> Answering:
        """Queue a request: all of its prompts, at least one, or none.

        Raises:
            QueueFullError: too many wait.
            ContextOverflowError: prompt and answer do not fit into the context.
            ValueError: the parameters do not fit the model.
        """
