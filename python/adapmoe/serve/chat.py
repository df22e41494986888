# SPDX-License-Identifier: Apache-2.0
"""OpenAI's chat completions: POST /v1/chat/completions."""

import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from adapmoe.serve.answer import ReasoningPart, TextPart
from adapmoe.serve.body import BodyRoute
from adapmoe.serve.chat_request import ChatRequest
from adapmoe.serve.errors import DOCUMENTED, openai_error
from adapmoe.serve.json_text import json_response
from adapmoe.serve.logprobs import LogprobsWriter
from adapmoe.serve.pieces import Choice, ChoiceReader, Piece, collect, openai_usage, read_pieces
from adapmoe.serve.prompting import (
    Prompt,
    ask_for,
    check_model,
    key_of,
    prepare,
    render,
    start,
)
from adapmoe.serve.service import Answering, Ask, Service
from adapmoe.serve.sse import DONE, EventStream, complete, event
from adapmoe.serve.tool_calls import ToolCall


def router(service: Service) -> APIRouter:
    """The API on a service."""
    routes = APIRouter(route_class=BodyRoute)

    @routes.post("/v1/chat/completions", responses=DOCUMENTED, tags=["OpenAI"])
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """Answer a conversation."""
        check_model(service, body.model)
        prompt, ask = await prepare(lambda: _prepared(service, body, key_of(request)))
        readers = [ChoiceReader(prompt.parser(), one_call=body.one_call) for _ in ask.params]
        answering = start(service, ask)
        writer = _Writer.of(service, body)
        if body.stream:
            events = _events(writer, answering, readers, include_usage=body.include_usage)
            return EventStream(events, answering, lambda error: event(openai_error(error)))
        choices = await complete(request.receive, answering, collect(answering, readers))
        usage = openai_usage(answering, readers)
        return await json_response(
            lambda: writer.whole(choices, usage), large=writer.logprobs is not None
        )

    return routes


def _prepared(service: Service, body: ChatRequest, key: str) -> tuple[Prompt, Ask]:
    turn = body.turn()
    prompt = render(service, turn)
    return prompt, ask_for(service, turn, prompt, body.params(), key, choices=body.choices)


@dataclass(frozen=True)
class _Writer:
    """Writes one response. `logprobs`: one writer per choice; None where they are not wanted."""

    head: dict[str, Any]
    logprobs: list[LogprobsWriter] | None

    @classmethod
    def of(cls, service: Service, body: ChatRequest) -> "_Writer":
        tokenizer = service.llm.tokenizer
        writers = [LogprobsWriter(tokenizer, answers=True) for _ in range(body.choices)]
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": int(time.time()),
            "model": service.model_name,
        }
        return cls(head, writers if body.logprobs else None)

    def whole(self, choices: list[Choice], usage: dict[str, Any]) -> dict[str, Any]:
        """All of it at once."""
        written = [
            {
                "index": at,
                "message": _message(choice),
                "logprobs": self._logprobs(at, choice.logprobs),
                "finish_reason": choice.ending,
            }
            for at, choice in enumerate(choices)
        ]
        return {**self.head, "choices": written, "usage": usage}

    def chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        ending: str | None = None,
    ) -> dict[str, Any]:
        """A piece of one choice."""
        written = {
            "index": choice,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": ending,
        }
        return {**self.head, "choices": [written]}

    def chunks(self, piece: Piece, first_call: int) -> list[dict[str, Any]]:
        """What is new of one choice; `first_call`: number of the calls it has had."""
        deltas: list[dict[str, Any]] = []
        for part in piece.parts:
            if isinstance(part, TextPart):
                deltas.append({"content": part.text})
            elif isinstance(part, ReasoningPart):
                deltas.append({"reasoning_content": part.text})
            else:
                call = {"index": first_call} | _call(part)
                deltas.append({"tool_calls": [call]})
                first_call += 1
        logprobs = self._logprobs(piece.choice, piece.logprobs) if piece.logprobs else None
        if logprobs is not None and not deltas:
            deltas.append({})
        # The log-probabilities go with the first delta: texts that are held back part them.
        chunks = [
            self.chunk(piece.choice, delta, None if at else logprobs)
            for at, delta in enumerate(deltas)
        ]
        if piece.ending:
            chunks.append(self.chunk(piece.choice, {}, ending=piece.ending))
        return chunks

    def _logprobs(self, choice: int, tokens: list[Any]) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        return {"content": self.logprobs[choice].chat(tokens), "refusal": None}


def _message(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.text if choice.text or not choice.calls else None,
        "refusal": None,
    }
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.calls:
        message["tool_calls"] = [_call(call) for call in choice.calls]
    return message


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


async def _events(
    writer: _Writer,
    answering: Answering,
    readers: list[ChoiceReader],
    *,
    include_usage: bool,
) -> AsyncGenerator[bytes, None]:
    # With usage in the stream, chunks before it say that they have none.
    extra = {"usage": None} if include_usage else {}
    begun: set[int] = set()
    calls: dict[int, int] = {}
    async for piece in read_pieces(answering, readers):
        if piece.choice not in begun:
            begun.add(piece.choice)
            yield event(writer.chunk(piece.choice, {"role": "assistant", "content": ""}) | extra)
        first = calls.get(piece.choice, 0)
        for chunk in writer.chunks(piece, first):
            yield event(chunk | extra)
        calls[piece.choice] = first + sum(isinstance(part, ToolCall) for part in piece.parts)
    if include_usage:
        yield event({**writer.head, "choices": [], "usage": openai_usage(answering, readers)})
    yield DONE
