# SPDX-License-Identifier: Apache-2.0
"""OpenAI's completions of plain prompts: POST /v1/completions."""

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Tag, model_validator
from starlette.responses import Response

from adapmoe.generation.params import SamplingParams
from adapmoe.generation.request import GenerationResult
from adapmoe.generation.sequence import encode_prompts
from adapmoe.serve.body import BodyRoute
from adapmoe.serve.errors import DOCUMENTED, openai_error
from adapmoe.serve.json_text import json_response
from adapmoe.serve.logprobs import LogprobsWriter
from adapmoe.serve.parameters import (
    MAX_CHOICES,
    ChoicesSampled,
    Item,
    check_logprobs,
    one_per_choice,
    wrong_value,
)
from adapmoe.serve.pieces import openai_usage
from adapmoe.serve.prompting import check_length, check_model, check_text, key_of, prepare, start
from adapmoe.serve.service import Answering, Ask, Service
from adapmoe.serve.sse import DONE, EventStream, complete, event

_MAX_TOKENS = 16  # where a request says nothing; OpenAI's default


def _kind_of_prompt(prompt: Any) -> str:
    """What a prompt was meant to be, by its first item: only that is validated."""
    if not isinstance(prompt, list):
        return "text"
    if prompt and isinstance(prompt[0], str):
        return "texts"
    return "rows" if prompt and isinstance(prompt[0], list) else "ids"


Ids = Annotated[list[int], Field(min_length=1, max_length=1 << 20, fail_fast=True)]
Several = Annotated[list[Item], Field(max_length=MAX_CHOICES, fail_fast=True)]
Prompts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[Several[str], Tag("texts")]
    | Annotated[Several[Ids], Tag("rows")],
    Discriminator(_kind_of_prompt),
]


class CompletionRequest(ChoicesSampled):
    """A request to continue one prompt or several, text or token ids."""

    prompt: Prompts
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: None = None

    @model_validator(mode="after")
    def limit_choices(self) -> "CompletionRequest":
        """Refuse more choices in all than one request may have."""
        prompts = self.prompt
        several = not isinstance(prompts, str) and not isinstance(prompts[0], int)
        if several and len(prompts) * self.choices > MAX_CHOICES:
            raise wrong_value(
                f"{len(prompts)} prompts with n = {self.choices} are more than {MAX_CHOICES} "
                "choices; send several requests"
            )
        return self

    def params(self) -> SamplingParams:
        """How to sample one choice."""
        return SamplingParams.of(
            self.sampling(),
            max_tokens=_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            logprobs=self.logprobs,
        )


def router(service: Service) -> APIRouter:
    """The API on a service."""
    routes = APIRouter(route_class=BodyRoute)

    @routes.post("/v1/completions", responses=DOCUMENTED, tags=["OpenAI"])
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continue prompts."""
        check_model(service, body.model)
        asks = await prepare(lambda: _asks(service, body, key_of(request)))
        answering = start(service, *asks)
        writers = [
            LogprobsWriter(service.llm.tokenizer, answers=False)
            for _ in range(len(asks) * body.choices)
        ]
        head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": service.model_name,
        }
        if body.stream:
            events = _events(head, answering, body, writers)
            return EventStream(events, answering, lambda error: event(openai_error(error)))
        results = await complete(request.receive, answering, _results(answering))
        usage = openai_usage(answering)
        return await json_response(
            lambda: {**head, "choices": _choices(results, writers, body), "usage": usage},
            large=body.logprobs is not None,
        )

    return routes


def _asks(service: Service, body: CompletionRequest, key: str) -> list[Ask]:
    """One per prompt."""
    llm = service.llm
    for text in [body.prompt] if isinstance(body.prompt, str) else body.prompt:
        if isinstance(text, str):
            check_text(service, text, "the prompt")
    prompts: list[NDArray[np.int32]] = encode_prompts(body.prompt, llm.tokenizer, llm.vocab_size)
    check_logprobs(body.params(), len(prompts) * body.choices)
    params = one_per_choice(body.params(), body.choices)
    return [
        Ask(check_length(service, prompt, "the prompt"), params, key, answers=False)
        for prompt in prompts
    ]


async def _results(answering: Answering) -> list[GenerationResult]:
    async for _ in answering:
        pass
    return answering.results


def _choices(
    results: list[GenerationResult], writers: list[LogprobsWriter], body: CompletionRequest
) -> list[dict[str, Any]]:
    return [
        {
            "index": at,
            "text": result.text,
            "logprobs": (
                None if body.logprobs is None else writer.completion(result.logprobs or [])
            ),
            "finish_reason": result.finish_reason,
        }
        for at, (result, writer) in enumerate(zip(results, writers, strict=True))
    ]


async def _events(
    head: dict[str, Any],
    answering: Answering,
    body: CompletionRequest,
    writers: list[LogprobsWriter],
) -> AsyncGenerator[bytes, None]:
    extra = {"usage": None} if body.include_usage else {}
    async for chunk in answering:
        logprobs = None
        if body.logprobs is not None:
            logprobs = writers[chunk.index].completion(chunk.logprobs or [])
        choice = {
            "index": chunk.index,
            "text": chunk.text,
            "logprobs": logprobs,
            "finish_reason": chunk.finish_reason,
        }
        yield event({**head, "choices": [choice]} | extra)
    if body.include_usage:
        yield event({**head, "choices": [], "usage": openai_usage(answering)})
    yield DONE
