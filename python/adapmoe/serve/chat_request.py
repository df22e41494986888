# SPDX-License-Identifier: Apache-2.0
"""What a request to OpenAI's chat completions may hold."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, model_validator

from adapmoe.generation.params import SamplingParams
from adapmoe.serve.parameters import (
    ChoicesSampled,
    FunctionName,
    JsonObject,
    Messages,
    Metadata,
    NamedSchema,
    ObjectFormat,
    Parts,
    Strict,
    TextContent,
    TextFormat,
    Tools,
    Unread,
    check_tools,
    joined,
    not_supported,
    plain_tool,
    wrong_value,
)
from adapmoe.serve.prompting import Turn


class SystemMessage(Strict):
    """Instructions."""

    role: Literal["system", "developer"]
    content: str | Parts[TextContent]
    name: str | None = None


class UserMessage(Strict):
    """What the user says."""

    role: Literal["user"]
    content: str | Parts[TextContent]
    name: str | None = None


class CalledFunction(Strict):
    """The function of a call, and its arguments: a JSON object as text."""

    name: str
    arguments: str


class Call(Strict):
    """A call that the assistant has made. `index`: as streams have it; not used."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class AssistantMessage(Strict):
    """An earlier answer, as responses hold it."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"audio", "function_call"})

    role: Literal["assistant"]
    content: str | Parts[TextContent] | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: Unread | None = None
    reasoning_content: str | None = None
    tool_calls: Tools[Call] | None = None

    @model_validator(mode="after")
    def say_something(self) -> "AssistantMessage":
        """Refuse a message without any content."""
        if self.content is None and not self.tool_calls and self.refusal is None:
            raise wrong_value("an assistant's message needs content or tool_calls")
        return self


class ToolMessage(Strict):
    """What a tool has returned."""

    role: Literal["tool"]
    content: str | Parts[TextContent]
    tool_call_id: str
    name: str | None = None


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Discriminator("role")
]


class Function(Strict):
    """A function that the model may call. `strict` holds where the call is forced."""

    name: FunctionName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool."""

    type: Literal["function"]
    function: Function


class ChosenName(Strict):
    """The name of the function to call."""

    name: str


class ChosenTool(Strict):
    """The function to call."""

    type: Literal["function"]
    function: ChosenName


class SchemaFormat(Strict):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[TextFormat | ObjectFormat | SchemaFormat, Discriminator("type")]


class ChatRequest(ChoicesSampled):
    """A request for the next message of a conversation."""

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {
            "audio",
            "function_call",
            "functions",
            "moderation",
            "prediction",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning_effort",
            "verbosity",
            "web_search_options",
        }
    )

    messages: Messages[ChatMessage]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Tools[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: JsonObject | None = None
    modalities: Parts[Literal["text"]] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    metadata: Metadata | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="after")
    def fit_together(self) -> "ChatRequest":
        """Refuse parameters that contradict each other."""
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise wrong_value("give max_tokens or max_completion_tokens, not both")
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong_value("top_logprobs is allowed only with logprobs: true")
        check_tools(
            [tool.function.name for tool in self.tools or ()],
            self.tool_choice.function.name if isinstance(self.tool_choice, ChosenTool) else None,
            must_call=self._must_call,
        )
        if self._json is not None and self.tools and self.tool_choice != "none":
            raise not_supported("response_format cannot be combined with tools: leave one out")
        return self

    def params(self) -> SamplingParams:
        """How to sample one choice; `max_tokens` None: as far as the context goes."""
        return SamplingParams.of(
            self.sampling(),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )

    def turn(self) -> Turn:
        """What is wanted of the model."""
        chosen = self.tool_choice
        return Turn(
            [_plain_message(message) for message in self.messages],
            tools=[] if chosen == "none" else self._plain_tools(),
            must_call=self._must_call,
            tool_name=chosen.function.name if isinstance(chosen, ChosenTool) else None,
            json=self._json,
            variables=self.chat_template_kwargs or {},
        )

    @property
    def one_call(self) -> bool:
        """Whether calls after the first are dropped."""
        return self.parallel_tool_calls is False

    def _plain_tools(self) -> list[dict[str, Any]]:
        functions = [tool.function for tool in self.tools or ()]
        return [plain_tool(one.name, one.description, one.parameters) for one in functions]

    @property
    def _must_call(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, ChosenTool)

    @property
    def _json(self) -> Literal["object"] | Mapping[str, Any] | None:
        if isinstance(self.response_format, SchemaFormat):
            return self.response_format.json_schema.schema_
        return "object" if isinstance(self.response_format, ObjectFormat) else None


def _plain_message(message: ChatMessage) -> dict[str, Any]:
    """A message as chat templates take it."""
    plain = message.model_dump(exclude_none=True, exclude={"annotations", "refusal"})
    plain["content"] = None if message.content is None else joined(message.content)
    if isinstance(message, SystemMessage):
        plain["role"] = "system"  # "developer" is a newer name for it
    if isinstance(message, AssistantMessage):
        if message.content is None and message.refusal is not None:
            plain["content"] = message.refusal
        for call in plain.get("tool_calls", ()):
            call.pop("index", None)
        if not plain.get("tool_calls"):
            plain.pop("tool_calls", None)
    return plain
