# SPDX-License-Identifier: Apache-2.0
"""OpenAI's completions of plain prompts: POST /v1/completions."""

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import Field, model_validator
from starlette.responses import Response

from adapmoe.generation.params import SamplingParams
from adapmoe.generation.request import GenerationResult
from adapmoe.generation.sequence import encode_prompts
from adapmoe.serve.errors import DOCUMENTED, openai_error
from adapmoe.serve.json_text import json_bytes
from adapmoe.serve.logprobs import LogprobsWriter
from adapmoe.serve.parameters import MAX_CHOICES, ChoicesSampled, one_per_choice, wrong_value
from adapmoe.serve.pieces import openai_usage
from adapmoe.serve.prompting import check_length, check_model, key_of, prepare, start
from adapmoe.serve.service import Answering, Ask, Service
from adapmoe.serve.sse import DONE, EventStream, close_all, complete, event

_MAX_TOKENS = 16  # where a request says nothing; OpenAI's default

Tokens = Annotated[list[int], Field(min_length=1)]
Prompts = (
    str
    | Tokens
    | Annotated[list[str], Field(min_length=1)]
    | Annotated[list[Tokens], Field(min_length=1)]
)


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
    routes = APIRouter()

    @routes.post("/v1/completions", responses=DOCUMENTED, tags=["OpenAI"])
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continue prompts."""
        check_model(service, body.model)
        asks = await prepare(lambda: _asks(service, body, key_of(request)))
        answers = await _start_all(service, asks)
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
            events = _events(head, answers, body, writers)
            return EventStream(events, answers, lambda error: event(openai_error(error)))
        results = await complete(request.receive, answers, _results(answers))
        choices = [_choice(at, result, writers[at], body) for at, result in enumerate(results)]
        content = {**head, "choices": choices, "usage": openai_usage(answers)}
        return Response(json_bytes(content), media_type="application/json")

    return routes


def _asks(service: Service, body: CompletionRequest, key: str) -> list[Ask]:
    """One per prompt."""
    llm = service.llm
    params = one_per_choice(body.params(), body.choices)
    prompts: list[NDArray[np.int32]] = encode_prompts(body.prompt, llm.tokenizer, llm.vocab_size)
    return [
        Ask(check_length(service, prompt, "the prompt"), params, key, answers=False)
        for prompt in prompts
    ]


async def _start_all(service: Service, asks: list[Ask]) -> list[Answering]:
    """Queue all or none. Raises ApiError."""
    answers: list[Answering] = []
    try:
        for ask in asks:
            answers.append(start(service, ask))
    except BaseException:
        await close_all(answers)
        raise
    return answers


async def _results(answers: Sequence[Answering]) -> list[GenerationResult]:
    for answer in answers:
        async for _ in answer:
            pass
    return [result for answer in answers for result in answer.results]


def _choice(
    index: int, result: GenerationResult, writer: LogprobsWriter, body: CompletionRequest
) -> dict[str, Any]:
    logprobs = None if body.logprobs is None else writer.completion(result.logprobs or [])
    return {
        "index": index,
        "text": result.text,
        "logprobs": logprobs,
        "finish_reason": result.finish_reason,
    }


async def _events(
    head: dict[str, Any],
    answers: list[Answering],
    body: CompletionRequest,
    writers: list[LogprobsWriter],
) -> AsyncGenerator[bytes, None]:
    extra = {"usage": None} if body.include_usage else {}
    for at, answer in enumerate(answers):
        async for chunk in answer:
            index = at * body.choices + chunk.index
            logprobs = None
            if body.logprobs is not None:
                logprobs = writers[index].completion(chunk.logprobs or [])
            choice = {
                "index": index,
                "text": chunk.text,
                "logprobs": logprobs,
                "finish_reason": chunk.finish_reason,
            }
            yield event({**head, "choices": [choice]} | extra)
    if body.include_usage:
        yield event({**head, "choices": [], "usage": openai_usage(answers)})
    yield DONE
