# SPDX-License-Identifier: Apache-2.0
"""Parameters that several APIs share, and how they become `SamplingParams`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from adapmoe.generation.params import SamplingParams

MAX_CHOICES = 16
MAX_LOGPROBS = 1_000_000  # log-probabilities that one response may hold
_MAX_KEYS = 256  # of an object; no request has as many parameters
_MAX_CONTAINERS = 100_000  # objects and lists in a conversation
_INT64 = 2**63

Item = TypeVar("Item")


def not_supported(message: str) -> PydanticCustomError:
    """The error for something that the API has and this server has not."""
    # The message is a template of pydantic's: braces of a request's text must not become fields.
    return PydanticCustomError("not_supported", "{message}", {"message": message})


def wrong_value(message: str) -> PydanticCustomError:
    """The error for values that are wrong together."""
    return PydanticCustomError("wrong_value", "{message}", {"message": message})


def _at_most(count: int) -> BeforeValidator:
    """Refuse larger objects before anybody looks at what they hold."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count:
            raise wrong_value(f"an object with at most {count} keys is allowed, not {len(value)}")
        return value

    return BeforeValidator(check)


def _refuse_crowds(conversation: Any) -> Any:
    """Refuse too many objects and lists in all, as the limits of each one let millions pass."""
    count, rest = 0, [conversation]
    while rest:
        one = rest.pop()
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        rest += [value for value in inner if isinstance(value, dict | list)]
        count += 1
        if count + len(rest) > _MAX_CONTAINERS:
            raise wrong_value(f"more than {_MAX_CONTAINERS} parts, objects and lists in all")
    return conversation


# Lists and objects have limits, and lists end at their first error: validation happens in the event
# loop, and must not take long whatever a body of some megabytes holds.
Messages = Annotated[
    list[Item],
    Field(min_length=1, max_length=4096, fail_fast=True),
    BeforeValidator(_refuse_crowds),
]
Parts = Annotated[list[Item], Field(max_length=1024, fail_fast=True)]
Unread = Annotated[list[Any], Field(max_length=1024)]
Tools = Annotated[list[Item], Field(max_length=128, fail_fast=True)]
JsonObject = Annotated[dict[str, Any], _at_most(4096)]

Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Stops = Annotated[list[Stop], Field(max_length=16, fail_fast=True)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, Field(max_length=512)]],
    _at_most(16),
]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Strict(BaseModel):
    """A JSON object without unknown keys, whose values are not converted.

    `unsupported`: keys that the API has and this server has not; null is as good as leaving out.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    unsupported: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def refuse_unsupported(cls, data: Any) -> Any:
        """Refuse what the API has and this server has not, by name."""
        if not isinstance(data, dict):
            return data
        if len(data) > _MAX_KEYS:  # each unknown one would be an error of its own
            raise wrong_value(f"{len(data)} parameters; there are not as many")
        found = [name for name in data if name in cls.unsupported]
        for name in found:
            if data[name] is not None:
                raise not_supported(f"the parameter {name!r} is not supported by this server")
        return {name: data[name] for name in data if name not in found} if found else data


class TextOnly(Strict):
    """A part of a message; only texts are taken. `kinds`: the types of parts that are texts."""

    kinds: ClassVar[frozenset[str]] = frozenset({"text"})

    text: str

    @model_validator(mode="before")
    @classmethod
    def refuse_other_parts(cls, data: Any) -> Any:
        """Refuse images, sounds and files by the name of their type."""
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind not in cls.kinds:
            raise not_supported(f"parts of type {kind!r} are not supported: the model takes text")
        return data


class TextContent(TextOnly):
    """A text as a part of a message."""

    type: Literal["text"]


def joined(content: str | Sequence[TextOnly]) -> str:
    """The text of a message, whose parts become lines."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]


class ObjectFormat(Strict):
    """A JSON object."""

    type: Literal["json_object"]


class NamedSchema(Strict):
    """A JSON schema. Answers always fit it, so `strict` makes no difference."""

    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: Annotated[JsonObject, Field(alias="schema")]
    strict: bool | None = None


def check_tools(names: Sequence[str], chosen: str | None, *, must_call: bool) -> None:
    """Refuse tools of the same name, and the choice of one that is not there."""
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise wrong_value(f"tools: there are two of the name {twice!r}")
    if must_call and not names:
        raise wrong_value("tool_choice demands a call, but there are no tools")
    if chosen is not None and chosen not in names:
        raise wrong_value(f"tool_choice: there is no tool {chosen!r}")


def plain_tool(
    name: str, description: str | None, parameters: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A tool as chat templates take it. They expect a schema of the parameters.

    `parameters`: None: the function has none; an empty schema: it takes anything.
    """
    if parameters is None:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description or "",
            "parameters": parameters or {"type": "object", "properties": {}},
        },
    }


class Sampled(Strict):
    """How to sample, as far as all of OpenAI's APIs have it, and this server's own parameters."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool | None = None
    user: str | None = None
    top_k: Annotated[int, Field(ge=0, lt=_INT64)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    ignore_eos: bool | None = None

    def sampling(self) -> SamplingParams:
        """All of it but how many tokens to generate. A missing temperature is 1."""
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            ignore_eos=bool(self.ignore_eos),
        )


class StreamOptions(Strict):
    """What a stream holds besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ChoicesSampled(Sampled):
    """How to sample, as OpenAI's completions and chat completions have it."""

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    stop: Stop | Stops | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenId, Bias], _at_most(1024)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=_INT64)] | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def only_streams_have_options(self) -> "ChoicesSampled":
        """Refuse `stream_options` where nothing is streamed."""
        if self.stream_options is not None and not self.stream:
            raise wrong_value("stream_options is allowed only with stream: true")
        return self

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self) -> SamplingParams:
        """As `Sampled.sampling`. A negative seed is one of the seeds above all positive ones."""
        return SamplingParams.of(
            super().sampling(),
            seed=None if self.seed is None else self.seed % (2 * _INT64),
            stop=self.stop or (),
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
        )


def one_per_choice(params: SamplingParams, choices: int) -> tuple[SamplingParams, ...]:
    """`params` for each choice; where there is a seed, the next one for each."""
    if params.seed is None:
        return (params,) * choices
    return tuple(SamplingParams.of(params, seed=params.seed + at) for at in range(choices))


def check_logprobs(params: SamplingParams, choices: int) -> None:
    """Raise ValueError if the log-probabilities of all choices may be more than a response holds.

    `params`: with its `max_tokens`.
    """
    if params.logprobs is None or params.max_tokens is None:
        return
    most = choices * (params.logprobs + 1) * params.max_tokens
    if most > MAX_LOGPROBS:
        raise ValueError(
            f"{choices} choices of {params.max_tokens} tokens with {params.logprobs + 1} "
            f"log-probabilities each are {most}, more than the {MAX_LOGPROBS} that one response "
            "may hold; give a lower max_tokens, top_logprobs or n"
        )
