# SPDX-License-Identifier: Apache-2.0
"""Anthropic's messages: POST /v1/messages and /v1/messages/count_tokens."""

import json
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from adapmoe.serve.answer import AnswerPart, ReasoningPart, TextPart
from adapmoe.serve.body import BodyRoute
from adapmoe.serve.errors import DOCUMENTED, ApiError, anthropic_error
from adapmoe.serve.json_text import json_bytes
from adapmoe.serve.messages_request import CountRequest, MessagesRequest
from adapmoe.serve.pieces import ChoiceReader, Ending, collect, read_pieces
from adapmoe.serve.prompting import (
    Prompt,
    Turn,
    ask_for,
    check_model,
    key_of,
    prepare,
    render,
    room_for_answer,
    start,
)
from adapmoe.serve.service import Answering, Ask, Service
from adapmoe.serve.sse import EventStream, complete, event
from adapmoe.serve.tool_calls import ToolCall


def router(service: Service) -> APIRouter:
    """The API on a service."""
    routes = APIRouter(route_class=BodyRoute)

    @routes.post("/v1/messages", responses=DOCUMENTED, tags=["Anthropic"])
    async def messages(request: Request, body: MessagesRequest) -> Response:
        """Answer a conversation."""
        check_model(service, body.model)
        prompt, ask = await prepare(lambda: _prepared(service, body, key_of(request)))
        answering = start(service, ask)
        reader = ChoiceReader(prompt.parser(), one_call=body.one_call)
        cut_short = ask.params[0].max_tokens != body.max_tokens
        message = _head(service)
        if body.stream:
            events = _events(message, answering, reader, cut_short=cut_short)
            return EventStream(events, answering, _error)
        [choice] = await complete(request.receive, answering, collect(answering, [reader]))
        message["content"] = [_block(part) for part in choice.parts]
        message |= _ending(choice.ending, answering, cut_short=cut_short)
        message["usage"] = _usage(answering)
        return Response(json_bytes(message), media_type="application/json")

    @routes.post("/v1/messages/count_tokens", responses=DOCUMENTED, tags=["Anthropic"])
    async def count_tokens(body: CountRequest) -> Response:
        """Count the tokens of a conversation."""
        check_model(service, body.model)
        prompt = await prepare(lambda: _rendered(service, body, body.turn()))
        return Response(
            json_bytes({"input_tokens": len(prompt.ids)}), media_type="application/json"
        )

    return routes


def _rendered(service: Service, body: CountRequest, turn: Turn) -> Prompt:
    prompt = render(service, turn)
    wants_thinking = body.thinking is not None and body.thinking.type != "disabled"
    if wants_thinking and prompt.style.reasoning is None:
        raise ApiError(
            400,
            "thinking: the chat template of this model has no marks for it; leave thinking out",
            param="thinking",
        )
    return prompt


def _prepared(service: Service, body: MessagesRequest, key: str) -> tuple[Prompt, Ask]:
    turn = body.turn()
    prompt = _rendered(service, body, turn)
    params = body.params(room_for_answer(service, prompt.ids))
    return prompt, ask_for(service, turn, prompt, params, key)


def _head(service: Service) -> dict[str, Any]:
    """A message before its first token."""
    return {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": service.model_name,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _ending(ending: Ending, answering: Answering, *, cut_short: bool) -> dict[str, Any]:
    """Why a complete answer ended. `cut_short`: the context has less room than was wanted."""
    [result] = answering.results
    reason = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[ending]
    if ending == "length" and cut_short:
        reason = "model_context_window_exceeded"
    if ending == "stop" and result.stop_string is not None:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": result.stop_string}


def _usage(answering: Answering) -> dict[str, Any]:
    [result] = answering.results
    cached = answering.cached_tokens
    return {
        "input_tokens": result.prompt_tokens - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": len(result.token_ids),
    }


def _block(part: AnswerPart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ReasoningPart):
        return {"type": "thinking", "thinking": part.text, "signature": ""}
    return {
        "type": "tool_use",
        "id": part.id,
        "name": part.name,
        "input": json.loads(part.arguments),
    }


class _Blocks:
    """Writes the blocks of a streamed message as events."""

    def __init__(self) -> None:
        self._last: AnswerPart | None = None
        self._index = -1

    def add(self, part: AnswerPart) -> list[bytes]:
        """A part: more of the last block, or a new one. Every call is a block of its own."""
        events: list[bytes] = []
        if isinstance(part, TextPart):
            empty: AnswerPart = TextPart("")
            delta = {"type": "text_delta", "text": part.text}
        elif isinstance(part, ReasoningPart):
            empty = ReasoningPart("")
            delta = {"type": "thinking_delta", "thinking": part.text}
        else:
            empty = replace(part, arguments="{}")
            delta = {"type": "input_json_delta", "partial_json": part.arguments}
        if type(part) is not type(self._last) or isinstance(part, ToolCall):
            events += self.end()
            self._index += 1
            events.append(self._event("content_block_start", content_block=_block(empty)))
            self._last = part
        return [*events, self._event("content_block_delta", delta=delta)]

    def end(self) -> list[bytes]:
        """The last block is complete."""
        return [] if self._last is None else [self._event("content_block_stop")]

    def _event(self, kind: str, **fields: Any) -> bytes:
        return event({"type": kind, "index": self._index, **fields}, kind)


async def _events(
    message: dict[str, Any],
    answering: Answering,
    reader: ChoiceReader,
    *,
    cut_short: bool,
) -> AsyncGenerator[bytes, None]:
    blocks = _Blocks()
    begun = False
    ending: Ending = "length"
    async for piece in read_pieces(answering, [reader]):
        if not begun:  # not before the first token: only now it is known what was cached
            begun = True
            usage = _usage(answering)
            start = {"type": "message_start", "message": {**message, "usage": usage}}
            yield event(start, "message_start")
        for part in piece.parts:
            for one in blocks.add(part):
                yield one
        ending = piece.ending or ending
    for one in blocks.end():
        yield one
    delta = _ending(ending, answering, cut_short=cut_short)
    yield event(
        {"type": "message_delta", "delta": delta, "usage": _usage(answering)}, "message_delta"
    )
    yield event({"type": "message_stop"}, "message_stop")


def _error(error: ApiError) -> bytes:
    return event(anthropic_error(error), "error")
