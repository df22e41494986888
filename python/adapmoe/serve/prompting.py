# SPDX-License-Identifier: Apache-2.0
"""From a request of any chat API to what the engine needs: prompt, parameters, constraint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import anyio
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from adapmoe import checks
from adapmoe.errors import ContextOverflowError
from adapmoe.generation.params import SamplingParams
from adapmoe.serve.answer import AnswerParser, AnswerStyle
from adapmoe.serve.errors import ApiError, refused, wrong_model
from adapmoe.serve.parameters import check_logprobs, one_per_choice
from adapmoe.serve.service import Answering, Ask, Service
from adapmoe.serve.tool_calls import messages_for_template

Result = TypeVar("Result")

# Requests are prepared in threads of their own: long ones must not use up those of other work, nor
# more than a part of the processors that the model computes on.
_PREPARING = anyio.CapacityLimiter(2)


@dataclass(frozen=True)
class Turn:
    """What a request wants of the model, in the terms of chat templates.

    Attributes:
        messages: of the conversation, as chat templates take them.
        tools: `{"type": "function", "function": {...}}` each; those the model may call.
        must_call: the answer has to be a call of one of them.
        tool_name: it has to be this one.
        json: None; "object": the answer has to be a JSON object; a schema: it has to fit that.
        variables: more variables for the chat template.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    must_call: bool = False
    tool_name: str | None = None
    json: Literal["object"] | Mapping[str, Any] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model reads it.

    Attributes:
        text: as the chat template renders it.
        ids: int32 `[n]`.
        style: how the model writes its answers.
        calls: whether calls of tools are looked for in the answers.
    """

    text: str
    ids: NDArray[np.int32]
    style: AnswerStyle
    calls: bool

    def parser(self) -> AnswerParser:
        """A fresh one for an answer."""
        return AnswerParser(self.style, tools=self.calls, prompt=self.text)

    @property
    def shown_special(self) -> frozenset[str]:
        """Special tokens that `parser` needs to see."""
        marks = frozenset(self.style.reasoning or ())
        return self.style.shown_special if self.calls else self.style.shown_special & marks

    @property
    def reasoning_end(self) -> str | None:
        """The mark that ends the reasoning which the prompt has begun; None if it has not."""
        if self.style.reasoning is None:
            return None
        begin, end = self.style.reasoning
        return end if self.text.rstrip().endswith(begin) else None


async def prepare(work: Callable[[], Result]) -> Result:
    """Do `work` in a thread: templates, long prompts and grammars must not hold up the others.

    Raises:
        ApiError: the request is at fault, or something failed.
    """
    try:
        return await anyio.to_thread.run_sync(work, limiter=_PREPARING)
    except ApiError:
        raise
    except Exception as error:  # every one is answered in the API's own shape
        raise refused(error) from error


def start(service: Service, *asks: Ask) -> Answering:
    """Queue a request. Raises ApiError."""
    try:
        return service.answer(asks)
    except Exception as error:  # every one is answered in the API's own shape
        raise refused(error) from error


def check_model(service: Service, model: str) -> None:
    """Raise ApiError if a request is for another model."""
    if model != service.model_name:
        raise wrong_model(model, service.model_name)


def key_of(request: Request) -> str:
    """The name of the API key that a request came with, "" without."""
    name: str = request.scope.get("state", {}).get("key", "")
    return name


def render(service: Service, turn: Turn) -> Prompt:
    """The prompt of a turn.

    Raises:
        ApiError: the model's calls would not be understood.
        ChatTemplateError, ContextOverflowError, PackError, ValueError: it cannot be made, or has
            too many tokens.
    """
    templates = service.llm.chat_templates
    tools = turn.tools or None
    style = AnswerStyle.of(templates.find(tools=bool(tools)))
    text = templates.render(
        messages_for_template(turn.messages), tools=tools, variables=turn.variables
    )
    if tools and style.syntax is None:
        raise ApiError(
            400,
            "tools: the chat template of this model has tool calls in a syntax that this server "
            "does not know; leave tools out",
            param="tools",
        )
    check_text(service, text, "the conversation")
    ids = service.llm.tokenizer.encode(text, add_bos=False)  # the template writes it if wanted
    return Prompt(text, check_length(service, ids, "the conversation"), style, bool(tools))


def check_text(service: Service, text: str, what: str) -> None:
    """Raise ContextOverflowError if a text must have more tokens than allowed.

    To make tokens of megabytes takes long and much memory, to count their bytes does not.
    """
    size = len(text.encode(errors="surrogatepass"))
    longest = service.llm.tokenizer.longest_token_bytes
    if size > service.max_prompt * longest:
        raise ContextOverflowError(
            f"{what} has {size} bytes, no token has more than {longest}; this server takes at most "
            f"{service.max_prompt} tokens"
        )


def check_length(
    service: Service, ids: list[int] | NDArray[np.int32], what: str
) -> NDArray[np.int32]:
    """A prompt as int32 `[n]`. Raises ContextOverflowError if it has more tokens than allowed."""
    if len(ids) > service.max_prompt:
        raise ContextOverflowError(
            f"{what} has {len(ids)} tokens; this server takes at most {service.max_prompt}"
        )
    return checks.token_ids(what, ids, service.llm.vocab_size)


def room_for_answer(service: Service, prompt: NDArray[np.int32]) -> int:
    """How many tokens an answer may have at most. Raises ContextOverflowError if none."""
    room = service.llm.max_context - len(prompt)
    if room < 1:
        raise ContextOverflowError(
            f"the prompt has {len(prompt)} tokens, the model takes {service.llm.max_context} "
            "together with the answer; shorten the prompt"
        )
    return room


def ask_for(
    service: Service,
    turn: Turn,
    prompt: Prompt,
    params: SamplingParams,
    key: str,
    *,
    choices: int = 1,
) -> Ask:
    """What to ask the engine for. Where `params` limit nothing, the context does.

    Raises:
        ConstraintError: a schema cannot be used.
        ContextOverflowError: the prompt leaves no room for an answer.
        ValueError: there may be too many log-probabilities.
    """
    room = room_for_answer(service, prompt.ids)
    if params.max_tokens is None:
        params = SamplingParams.of(params, max_tokens=room)
    check_logprobs(params, choices)
    each = one_per_choice(params, choices)
    grammar = _grammar(service, turn, prompt)
    if grammar is not None:
        # Each choice has a processor of its own, which follows what is written.
        each = tuple(
            SamplingParams.of(
                one,
                logits_processor=service.constraints.processor(grammar, after=prompt.reasoning_end),
            )
            for one in each
        )
    return Ask(prompt.ids, each, key, shown_special=prompt.shown_special)


def _grammar(service: Service, turn: Turn, prompt: Prompt) -> str | None:
    if turn.must_call:
        assert prompt.style.syntax is not None  # `render` has seen to that
        return service.constraints.tool_calls(turn.tools, prompt.style.syntax, name=turn.tool_name)
    if turn.json is None:
        return None
    if turn.json == "object":
        return service.constraints.json_object()
    return service.constraints.json_schema(turn.json)
