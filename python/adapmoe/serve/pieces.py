# SPDX-License-Identifier: Apache-2.0
"""The answers of a request as parts: while they are written, or complete."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from adapmoe.generation.request import GenerationChunk
from adapmoe.generation.sampling import TokenLogprobs
from adapmoe.serve.answer import AnswerParser, AnswerPart, ReasoningPart, TextPart
from adapmoe.serve.service import Answering
from adapmoe.serve.tool_calls import ToolCall

Ending = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Piece:
    """What is new of one choice.

    Attributes:
        choice: which.
        parts: in the order in which they were written, perhaps none.
        logprobs: of the new tokens; empty unless wanted.
        ending: why the choice ends with this piece; None: it goes on.
    """

    choice: int
    parts: list[AnswerPart]
    logprobs: list[TokenLogprobs]
    ending: Ending | None


class ChoiceReader:
    """Reads one choice.

    Attributes:
        reasoning_tokens: how many tokens the model thought with. A token counts with the part that
            its text, or the next one's, begins.
    """

    def __init__(self, parser: AnswerParser, *, one_call: bool) -> None:
        """`one_call`: drop all calls but the first."""
        self.reasoning_tokens = 0
        self._parser = parser
        self._one_call = one_call
        self._has_called = False
        self._uncounted = 0  # tokens whose text is held back

    def read(self, chunk: GenerationChunk) -> Piece:
        """What is certain after one more chunk."""
        parts = self._parser.push(chunk.text)
        if chunk.finish_reason is not None:
            parts += self._parser.finish()
        parts = self._kept(parts)
        self._count(parts, len(chunk.token_ids))
        ending: Ending | None = chunk.finish_reason
        if ending == "stop" and self._has_called:
            ending = "tool_calls"
        return Piece(chunk.index, parts, chunk.logprobs or [], ending)

    def _kept(self, parts: list[AnswerPart]) -> list[AnswerPart]:
        kept: list[AnswerPart] = []
        for part in parts:
            if isinstance(part, ToolCall):
                if self._one_call and self._has_called:
                    continue
                self._has_called = True
            kept.append(part)
        return kept

    def _count(self, parts: list[AnswerPart], tokens: int) -> None:
        self._uncounted += tokens
        if parts:
            if isinstance(parts[0], ReasoningPart):
                self.reasoning_tokens += self._uncounted
            self._uncounted = 0


async def read_pieces(
    answering: Answering, readers: Sequence[ChoiceReader]
) -> AsyncIterator[Piece]:
    """The pieces of an answer, with one reader per choice. Raises what `answering` raises."""
    async for chunk in answering:
        yield readers[chunk.index].read(chunk)


@dataclass
class Choice:
    """One complete answer.

    Attributes:
        parts: neighbours are of different kinds, but for calls.
        logprobs: of all tokens; empty unless wanted.
        ending: why it ended.
    """

    parts: list[AnswerPart] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    ending: Ending = "length"

    def add(self, piece: Piece) -> None:
        """Append what is new."""
        for part in piece.parts:
            last = self.parts[-1] if self.parts else None
            if isinstance(part, TextPart) and isinstance(last, TextPart):
                self.parts[-1] = TextPart(last.text + part.text)
            elif isinstance(part, ReasoningPart) and isinstance(last, ReasoningPart):
                self.parts[-1] = ReasoningPart(last.text + part.text)
            else:
                self.parts.append(part)
        self.logprobs += piece.logprobs
        self.ending = piece.ending or self.ending

    @property
    def text(self) -> str:
        """Without reasoning and calls."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def reasoning(self) -> str:
        """What the model thought before."""
        return "".join(part.text for part in self.parts if isinstance(part, ReasoningPart))

    @property
    def calls(self) -> list[ToolCall]:
        """The tools that it calls."""
        return [part for part in self.parts if isinstance(part, ToolCall)]


async def collect(answering: Answering, readers: Sequence[ChoiceReader]) -> list[Choice]:
    """Wait for all choices. Raises what `answering` raises."""
    collected = [Choice() for _ in readers]
    async for piece in read_pieces(answering, readers):
        collected[piece.choice].add(piece)
    return collected


def openai_usage(answering: Answering, readers: Sequence[ChoiceReader] = ()) -> dict[str, Any]:
    """The tokens that a complete answer has cost, as OpenAI's completions count them."""
    prompt = answering.prompt_tokens
    written = sum(len(result.token_ids) for result in answering.results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": answering.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": sum(reader.reasoning_tokens for reader in readers)
        },
    }
