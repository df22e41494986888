# SPDX-License-Identifier: Apache-2.0
"""What a request to Anthropic's messages may hold."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from adapmoe.generation.params import SamplingParams
from adapmoe.serve.json_text import json_bytes
from adapmoe.serve.parameters import (
    FunctionName,
    JsonObject,
    Messages,
    Parts,
    Stops,
    Strict,
    TextOnly,
    Tools,
    Unread,
    check_tools,
    joined,
    not_supported,
    plain_tool,
)
from adapmoe.serve.prompting import Turn


class CacheControl(Strict):
    """Where to cut the prompt for a cache. Every prompt is kept here, so it has no effect."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(TextOnly):
    """A text of a message."""

    type: Literal["text"]
    cache_control: CacheControl | None = None
    citations: Unread | None = None


class ToolUseBlock(Strict):
    """A call that the assistant has made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: JsonObject
    cache_control: CacheControl | None = None


class ThinkingBlock(Strict):
    """What the assistant thought before an earlier answer."""

    type: Literal["thinking"]
    thinking: str
    signature: str = ""


class ToolResultBlock(Strict):
    """What a tool has returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Parts[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


def _kind_of_block(block: Any) -> str:
    """The type of a block; the others are for `TextBlock` to refuse by name."""
    kind = block.get("type") if isinstance(block, dict) else None
    return kind if kind in ("tool_use", "tool_result", "thinking") else "text"


Text = Annotated[TextBlock, Tag("text")]
UserBlock = Annotated[
    Text | Annotated[ToolResultBlock, Tag("tool_result")], Discriminator(_kind_of_block)
]
AssistantBlock = Annotated[
    Text | Annotated[ToolUseBlock, Tag("tool_use")] | Annotated[ThinkingBlock, Tag("thinking")],
    Discriminator(_kind_of_block),
]


class UserMessage(Strict):
    """What the user says, and what tools have returned."""

    role: Literal["user"]
    content: str | Annotated[Parts[UserBlock], Field(min_length=1)]


class AssistantMessage(Strict):
    """An earlier answer."""

    role: Literal["assistant"]
    content: str | Annotated[Parts[AssistantBlock], Field(min_length=1)]


Message = Annotated[UserMessage | AssistantMessage, Discriminator("role")]


class Tool(Strict):
    """A tool that the model may call. `strict` holds where the call is forced.

    Chat templates have no place for examples, and arguments are streamed once they are complete:
    `input_examples` and `eager_input_streaming` have no effect.
    """

    unsupported: ClassVar[frozenset[str]] = frozenset({"allowed_callers", "defer_loading"})

    name: FunctionName
    description: str | None = None
    input_schema: JsonObject
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    input_examples: Parts[JsonObject] | None = None

    @model_validator(mode="before")
    @classmethod
    def refuse_other_tools(cls, data: Any) -> Any:
        """Refuse the tools that run on Anthropic's servers, by the name of their type."""
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind != "custom":
            raise not_supported(f"tools of type {kind!r} are not supported by this server")
        return data


class FreeChoice(Strict):
    """Whether tools may be called, or one must be."""

    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class ToolChoice(Strict):
    """The tool to call."""

    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


class Thinking(Strict):
    """Whether the model thinks before it answers.

    The budget is a wish, which is not enforced. Whatever `display` says, thoughts are shown as they
    are: there are no signatures that could bring omitted ones back.
    """

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class JsonFormat(Strict):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[JsonObject, Field(alias="schema")]


class OutputConfig(Strict):
    """What the answer has to be."""

    unsupported: ClassVar[frozenset[str]] = frozenset({"effort", "task_budget"})

    format: JsonFormat | None = None


class UserId(Strict):
    """Who asks; not used."""

    user_id: str | None = None


class CountRequest(Strict):
    """A conversation whose tokens are counted."""

    unsupported: ClassVar[frozenset[str]] = frozenset(
        {"context_management", "mcp_servers", "speed", "user_profile_id", "workspace_id"}
    )

    model: str
    messages: Messages[Message]
    system: str | Parts[TextBlock] | None = None
    tools: Tools[Tool] | None = None
    tool_choice: Annotated[FreeChoice | ToolChoice, Discriminator("type")] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None

    @model_validator(mode="after")
    def fit_together(self) -> "CountRequest":
        """Refuse parameters that contradict each other."""
        if isinstance(self.messages[-1], AssistantMessage):
            raise not_supported(
                "the last message must be the user's: answers that go on with an assistant's "
                "message are not supported"
            )
        check_tools(
            [tool.name for tool in self.tools or ()],
            self.tool_choice.name if isinstance(self.tool_choice, ToolChoice) else None,
            must_call=self._must_call,
        )
        if self._json is not None and self._usable_tools:
            raise not_supported("output_config.format cannot be combined with tools: leave one out")
        return self

    def turn(self) -> Turn:
        """What is wanted of the model."""
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": joined(self.system)})
        # Messages of one role in a row are one: chat templates want roles to alternate.
        for role, group in groupby(self.messages, key=lambda message: message.role):
            blocks = [block for message in group for block in _blocks(message)]
            messages += _of_user(blocks) if role == "user" else [_of_assistant(blocks)]
        chosen = self.tool_choice
        return Turn(
            messages,
            tools=[
                plain_tool(tool.name, tool.description, tool.input_schema)
                for tool in self._usable_tools
            ],
            must_call=self._must_call,
            tool_name=chosen.name if isinstance(chosen, ToolChoice) else None,
            json=self._json,
            variables={}
            if self.thinking is None
            else {"enable_thinking": self.thinking.type != "disabled"},
        )

    @property
    def one_call(self) -> bool:
        """Whether calls after the first are dropped."""
        return self.tool_choice is not None and self.tool_choice.disable_parallel_tool_use is True

    @property
    def _usable_tools(self) -> Sequence[Tool]:
        none = self.tool_choice is not None and self.tool_choice.type == "none"
        return [] if none else self.tools or []

    @property
    def _must_call(self) -> bool:
        return self.tool_choice is not None and self.tool_choice.type in ("any", "tool")

    @property
    def _json(self) -> Mapping[str, Any] | None:
        wanted = self.output_config.format if self.output_config is not None else None
        return None if wanted is None else wanted.schema_


class MessagesRequest(CountRequest):
    """A request for the next message of a conversation."""

    unsupported: ClassVar[frozenset[str]] = CountRequest.unsupported | frozenset(
        {"container", "diagnostics", "inference_geo"}
    )

    max_tokens: Annotated[int, Field(ge=1, lt=2**63)]
    stop_sequences: Stops | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    metadata: UserId | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    def params(self, room: int) -> SamplingParams:
        """How to sample. `room`: most tokens that fit into the context, at least 1."""
        return SamplingParams(
            max_tokens=min(self.max_tokens, room),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k or 0,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=self.stop_sequences or (),
        )


def _blocks(message: UserMessage | AssistantMessage) -> Sequence[Strict]:
    content = message.content
    return [TextBlock(type="text", text=content)] if isinstance(content, str) else content


def _of_user(blocks: Sequence[Strict]) -> list[dict[str, Any]]:
    """What the user says as chat templates take it: results of tools are messages of their own."""
    plain: list[dict[str, Any]] = []
    for block in blocks:
        if not isinstance(block, ToolResultBlock):
            continue
        result = joined(block.content or "")
        plain.append(
            {
                "role": "tool",
                "tool_call_id": block.tool_use_id,
                "content": f"Error: {result}" if block.is_error else result,
            }
        )
    texts = [block for block in blocks if isinstance(block, TextBlock)]
    return [*plain, {"role": "user", "content": joined(texts)}] if texts else plain


def _of_assistant(blocks: Sequence[Strict]) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "role": "assistant",
        "content": joined([block for block in blocks if isinstance(block, TextBlock)]),
    }
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    if thoughts:
        plain["reasoning_content"] = "\n".join(thoughts)
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": json_bytes(block.input).decode()},
        }
        for block in blocks
        if isinstance(block, ToolUseBlock)
    ]
    return plain | ({"tool_calls": calls} if calls else {})
