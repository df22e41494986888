# SPDX-License-Identifier: Apache-2.0
"""What a request to OpenAI's responses may hold."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from adapmoe.generation.params import SamplingParams
from adapmoe.serve.parameters import (
    MAX_LOGPROBS,
    JsonObject,
    Messages,
    Metadata,
    NamedSchema,
    ObjectFormat,
    Parts,
    Sampled,
    Strict,
    TextFormat,
    TextOnly,
    Tools,
    Unread,
    joined,
    not_supported,
    wrong_value,
)
from adapmoe.serve.prompting import Turn

_LOGPROBS = "message.output_text.logprobs"


class InputText(TextOnly):
    """A text of a message; annotations and log-probabilities of an earlier answer are not used."""

    kinds: ClassVar[frozenset[str]] = frozenset({"input_text", "output_text"})

    type: Literal["input_text", "output_text"]
    annotations: Unread | None = None
    logprobs: Annotated[list[Any], Field(max_length=MAX_LOGPROBS)] | None = None


class InputMessage(Strict):
    """A message of the conversation, also as an earlier response holds it."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | Parts[InputText]
    type: Literal["message"] = "message"
    id: str | None = None
    status: Literal["completed", "incomplete"] | None = None
    phase: str | None = None

    @model_validator(mode="before")
    @classmethod
    def refuse_other_items(cls, data: Any) -> Any:
        """Refuse calls of tools, their results and whatever else there is, by name."""
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind != "message":
            raise not_supported(f"items of type {kind!r} are not supported by this server")
        return data


class ReasoningText(TextOnly):
    """A text of earlier reasoning."""

    kinds: ClassVar[frozenset[str]] = frozenset({"reasoning_text", "summary_text"})

    type: Literal["reasoning_text", "summary_text"]


class InputReasoning(Strict):
    """Earlier reasoning, as a response holds it. Goes with the message that follows."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"encrypted_content"})

    type: Literal["reasoning"]
    id: str | None = None
    summary: Parts[ReasoningText] = Field(default_factory=list)
    content: Parts[ReasoningText] | None = None
    status: Literal["completed", "incomplete"] | None = None


def _kind_of_item(item: Any) -> str:
    """The type of an item; the others are for `InputMessage` to refuse by name."""
    kind = item.get("type") if isinstance(item, dict) else None
    return "reasoning" if kind == "reasoning" else "message"


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")] | Annotated[InputReasoning, Tag("reasoning")],
    Discriminator(_kind_of_item),
]


class SchemaFormat(NamedSchema):
    """JSON that fits a schema."""

    type: Literal["json_schema"]


class TextOptions(Strict):
    """What the text of the answer has to be."""

    format: Annotated[TextFormat | ObjectFormat | SchemaFormat, Discriminator("type")] | None = None
    verbosity: Literal["medium"] | None = None


class StreamOptions(Strict):
    """What a stream holds besides the answer."""

    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(Sampled):
    """A request for a response. There are no tools here: chat completions and messages have them.

    Nothing is stored, so a response cannot be asked for later or continued by its id.
    """

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {
            "access_programs",
            "background_options",
            "context_management",
            "conversation",
            "image",
            "max_tool_calls",
            "moderation",
            "previous_response_id",
            "prompt",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning",
        }
    )

    input: Annotated[str, Field(min_length=1)] | Messages[InputItem]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    text: TextOptions | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: Parts[Literal["message.output_text.logprobs"]] | None = None
    tools: Tools[Any] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    stream_options: StreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: Metadata | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    chat_template_kwargs: JsonObject | None = None

    @model_validator(mode="after")
    def fit_together(self) -> "ResponsesRequest":
        """Refuse tools, and parameters that contradict each other."""
        if self.tools:
            raise not_supported(
                "tools are not supported in /v1/responses; use /v1/chat/completions"
            )
        if self.top_logprobs is not None and not self.wants_logprobs:
            raise wrong_value(f"top_logprobs is allowed only with include: [{_LOGPROBS!r}]")
        if self.stream_options is not None and not self.stream:
            raise wrong_value("stream_options is allowed only with stream: true")
        return self

    @property
    def wants_logprobs(self) -> bool:
        """Whether the response holds log-probabilities."""
        return _LOGPROBS in (self.include or ())

    def params(self) -> SamplingParams:
        """How to sample; `max_tokens` None: as far as the context goes."""
        return SamplingParams.of(
            self.sampling(),
            max_tokens=self.max_output_tokens,
            logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
        )

    def turn(self) -> Turn:
        """What is wanted of the model."""
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        items: list[InputMessage | InputReasoning] = (
            [InputMessage(role="user", content=self.input)]
            if isinstance(self.input, str)
            else self.input
        )
        reasoning: dict[str, Any] = {}
        for item in items:
            if isinstance(item, InputReasoning):
                reasoning = {"reasoning_content": joined(item.content or item.summary)}
                continue
            plain = _plain_message(item)
            messages.append(plain | (reasoning if item.role == "assistant" else {}))
            reasoning = {}
        return Turn(messages, json=self._json, variables=self.chat_template_kwargs or {})

    @property
    def _json(self) -> Literal["object"] | Mapping[str, Any] | None:
        wanted = self.text.format if self.text is not None else None
        if isinstance(wanted, SchemaFormat):
            return wanted.schema_
        return "object" if isinstance(wanted, ObjectFormat) else None


def _plain_message(message: InputMessage) -> dict[str, Any]:
    """A message as chat templates take it."""
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": joined(message.content)}
