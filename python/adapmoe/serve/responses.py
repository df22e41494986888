# SPDX-License-Identifier: Apache-2.0
"""OpenAI's responses: POST /v1/responses."""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from adapmoe.serve.errors import DOCUMENTED
from adapmoe.serve.json_text import json_bytes
from adapmoe.serve.logprobs import LogprobsWriter
from adapmoe.serve.pieces import ChoiceReader, Ending, read_pieces
from adapmoe.serve.prompting import Prompt, ask_for, check_model, key_of, prepare, render, start
from adapmoe.serve.response_writer import Event, ResponseWriter
from adapmoe.serve.responses_request import ResponsesRequest
from adapmoe.serve.service import Answering, Ask, Service
from adapmoe.serve.sse import EventStream, complete, event


def router(service: Service) -> APIRouter:
    """The API on a service."""
    routes = APIRouter()

    @routes.post("/v1/responses", responses=DOCUMENTED, tags=["OpenAI"])
    async def responses(request: Request, body: ResponsesRequest) -> Response:
        """Answer a conversation."""
        check_model(service, body.model)
        prompt, ask = await prepare(lambda: _prepared(service, body, key_of(request)))
        answering = start(service, ask)
        logprobs = None
        if body.wants_logprobs:
            logprobs = LogprobsWriter(service.llm.tokenizer, answers=True)
        reader = ChoiceReader(prompt.parser(), one_call=False)
        writer = ResponseWriter(_head(service, body), logprobs)
        events = _events(writer, answering, reader)
        if body.stream:
            return EventStream(
                _written(events), [answering], lambda error: event(writer.error(error), "error")
            )
        await complete(request.receive, [answering], _exhaust(events))
        return Response(json_bytes(writer.whole), media_type="application/json")

    return routes


def _prepared(service: Service, body: ResponsesRequest, key: str) -> tuple[Prompt, Ask]:
    turn = body.turn()
    prompt = render(service, turn)
    return prompt, ask_for(service, turn, prompt, body.params(), key)


def _head(service: Service, body: ResponsesRequest) -> dict[str, Any]:
    """A response before its first token; what the request said is repeated, as OpenAI does."""
    text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": service.model_name,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": {"type": "text"}} | text,
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


async def _events(
    writer: ResponseWriter, answering: Answering, reader: ChoiceReader
) -> AsyncGenerator[Event, None]:
    for one in writer.begin():
        yield one
    ending: Ending = "length"
    async for piece in read_pieces(answering, [reader]):
        ending = piece.ending or ending
        for one in writer.add(piece):
            yield one
    for one in writer.finish(ending, _usage(answering, reader)):
        yield one


async def _written(events: AsyncIterator[Event]) -> AsyncGenerator[bytes, None]:
    async for one in events:
        yield event(one, one["type"])


async def _exhaust(events: AsyncIterator[Event]) -> None:
    async for _ in events:
        pass


def _usage(answering: Answering, reader: ChoiceReader) -> dict[str, Any]:
    [result] = answering.results
    written = len(result.token_ids)
    return {
        "input_tokens": result.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": answering.cached_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": reader.reasoning_tokens},
        "total_tokens": result.prompt_tokens + written,
    }
