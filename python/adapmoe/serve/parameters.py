# SPDX-License-Identifier: Apache-2.0
"""Parameters that several APIs share, and how they become `SamplingParams`."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from adapmoe.generation.params import SamplingParams

MAX_CHOICES = 16
_INT64 = 2**63

NonEmpty = Annotated[str, StringConstraints(min_length=1)]
Stops = Annotated[list[NonEmpty], Field(max_length=16)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def not_supported(message: str) -> PydanticCustomError:
    """The error for something that the API has and this server has not."""
    # The message is a template of pydantic's: braces of a request's text must not become fields.
    return PydanticCustomError("not_supported", "{message}", {"message": message})


def wrong_value(message: str) -> PydanticCustomError:
    """The error for values that are wrong together."""
    return PydanticCustomError("wrong_value", "{message}", {"message": message})


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
        for name in data:
            if name in cls.unsupported and data[name] is not None:
                raise not_supported(f"the parameter {name!r} is not supported by this server")
        return {name: value for name, value in data.items() if name not in cls.unsupported}


class TextOnly(Strict):
    """A part of a message; only texts are taken. `kinds`: the types of parts that are texts."""

    kinds: ClassVar[frozenset[str]] = frozenset({"text"})

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
    text: str


def joined(content: "str | Sequence[TextContent] | None") -> str | None:
    """The text of a message, whose parts become lines."""
    if content is None or isinstance(content, str):
        return content
    return "\n".join(part.text for part in content)


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
    stop: NonEmpty | Stops | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[TokenId, Bias] | None = None
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
