# SPDX-License-Identifier: Apache-2.0
"""OpenAI's responses: POST /v1/responses, as a whole and as events of a stream."""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from copy import deepcopy
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from adapmoe.serve.answer import ReasoningPart, TextPart
from adapmoe.serve.body import BodyRoute
from adapmoe.serve.errors import DOCUMENTED, ApiError
from adapmoe.serve.json_text import json_in_pieces, json_response
from adapmoe.serve.logprobs import LogprobsWriter
from adapmoe.serve.pieces import ChoiceReader, Ending, Piece, read_pieces
from adapmoe.serve.prompting import Prompt, ask_for, check_model, key_of, prepare, render, start
from adapmoe.serve.responses_request import ResponsesRequest
from adapmoe.serve.service import Answering, Ask, Service
from adapmoe.serve.sse import EventStream, complete, event

Event = dict[str, Any]


def router(service: Service) -> APIRouter:
    """The API on a service."""
    routes = APIRouter(route_class=BodyRoute)

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
        writer = _Writer(_head(service, body), logprobs)
        events = _events(writer, answering, reader)
        if body.stream:
            return EventStream(
                _written(events, large=body.wants_logprobs),
                answering,
                lambda error: event(writer.error(error), "error"),
            )
        await complete(request.receive, answering, _exhaust(events))
        return await json_response(lambda: writer.whole, large=body.wants_logprobs)

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


class _Writer:
    """One response, which grows piece by piece.

    Attributes:
        whole: the response so far; complete after `finish`.
    """

    def __init__(self, head: dict[str, Any], logprobs: LogprobsWriter | None) -> None:
        """Take what is known before the first token.

        Args:
            head: the response without any output.
            logprobs: writes log-probabilities; None: they are not wanted.
        """
        self.whole = head
        self._logprobs = logprobs
        self._item: dict[str, Any] | None = None  # the last one, while it grows
        self._unsent: list[dict[str, Any]] = []  # log-probabilities that wait for a text
        self._events = 0

    def begin(self) -> list[Event]:
        """The events before the first token."""
        return [
            self._event(f"response.{word}", response={**self.whole})
            for word in ("created", "in_progress")
        ]

    def add(self, piece: Piece) -> list[Event]:
        """Append what is new; return its events."""
        if self._logprobs is not None:
            self._unsent += self._logprobs.chat(piece.logprobs)
        events: list[Event] = []
        for part in piece.parts:
            # There are no tools, so no calls are looked for.
            assert isinstance(part, TextPart | ReasoningPart)
            kind = "message" if isinstance(part, TextPart) else "reasoning"
            if self._item is None or self._item["type"] != kind:
                events += self._end_item("completed") + self._begin_item(kind)
            events.append(self._delta(part.text))
        return events

    def finish(self, ending: Ending, usage: dict[str, Any]) -> list[Event]:
        """Complete the response with what it has cost; return the last events."""
        status = "incomplete" if ending == "length" else "completed"
        events: list[Event] = []
        if self._item is None:  # the model wrote nothing: an empty message says so
            events += self._begin_item("message")
        events += self._end_item(status)
        self.whole["status"] = status
        if status == "incomplete":
            self.whole["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.whole["completed_at"] = int(time.time())
        self.whole["usage"] = usage
        return [*events, self._event(f"response.{status}", response=self.whole)]

    def error(self, error: ApiError) -> Event:
        """The last event of a stream that fails."""
        return self._event("error", code=error.code, message=str(error), param=error.param)

    def _event(self, kind: str, **fields: Any) -> Event:
        self._events += 1
        return {"type": kind, "sequence_number": self._events - 1, **fields}

    def _begin_item(self, kind: str) -> list[Event]:
        item: dict[str, Any] = {"type": kind, "status": "in_progress", "content": []}
        if kind == "message":
            item |= {"id": f"msg_{uuid.uuid4().hex}", "role": "assistant"}
            part: dict[str, Any] = {
                "type": "output_text",
                "text": "",
                "annotations": [],
                "logprobs": [],
            }
        else:
            item |= {"id": f"rs_{uuid.uuid4().hex}", "summary": []}
            part = {"type": "reasoning_text", "text": ""}
        self.whole["output"] = [*self.whole["output"], item]
        added = self._event(
            "response.output_item.added", output_index=self._index, item={**item, "content": []}
        )
        item["content"] = [part]
        self._item = item
        return [added, self._in_item("response.content_part.added", part=deepcopy(part))]

    def _delta(self, text: str) -> Event:
        assert self._item is not None
        part = self._item["content"][0]
        part["text"] += text
        if part["type"] == "reasoning_text":
            return self._in_item("response.reasoning_text.delta", delta=text)
        logprobs, self._unsent = self._unsent, []
        part["logprobs"] += logprobs
        return self._in_item("response.output_text.delta", delta=text, logprobs=logprobs)

    def _end_item(self, status: str) -> list[Event]:
        if self._item is None:
            return []
        self._item["status"] = status
        part = self._item["content"][0]
        more = {}
        if part["type"] == "output_text":
            part["logprobs"] += self._unsent
            self._unsent = []
            more = {"logprobs": part["logprobs"]}
        return [
            self._in_item(f"response.{part['type']}.done", text=part["text"], **more),
            self._in_item("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=self._index, item=self._item),
        ]

    def _in_item(self, kind: str, **fields: Any) -> Event:
        assert self._item is not None
        place = {"item_id": self._item["id"], "output_index": self._index, "content_index": 0}
        return self._event(kind, **place, **fields)

    @property
    def _index(self) -> int:
        return len(self.whole["output"]) - 1


async def _events(
    writer: _Writer, answering: Answering, reader: ChoiceReader
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


async def _written(events: AsyncIterator[Event], *, large: bool) -> AsyncGenerator[bytes, None]:
    """`large`: events that repeat the whole text may be megabytes; a thread writes them."""
    async for one in events:
        if large and not one["type"].endswith(".delta"):
            yield await run_in_threadpool(_large_event, one)
        else:
            yield event(one, one["type"])


def _large_event(data: Event) -> bytes:
    head = f"event: {data['type']}\ndata: ".encode()
    return b"".join([head, *json_in_pieces(data), b"\n\n"])


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
