# SPDX-License-Identifier: Apache-2.0
"""What the exporter needs to know of an architecture: its config, its tensors, its router."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapmoe.errors import CheckpointError
from adapmoe.pack.manifest import ModelConfig

Json = dict[str, Any]

# The two matrices that `tie_word_embeddings` is about, by their published names.
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


class ConfigFields:
    """Fields of a config.json. Every getter raises CheckpointError, which names a wrong field."""

    def __init__(self, raw: Json, path: Path, defaults: Json) -> None:
        """`raw` is the parsed file at `path`; `defaults` has the fields that may be left out."""
        self._raw = raw
        self._fields = defaults | raw
        self._path = path

    def error(self, problem: str) -> CheckpointError:
        """An error that names the file."""
        return CheckpointError(f"{self._path}: {problem}")

    def is_given(self, key: str) -> bool:
        """Whether the file has the field, null included."""
        return key in self._raw

    def get(self, key: str) -> object:
        """The raw value or the default; None where there is neither."""
        return self._fields.get(key)

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer from `low` to `high`."""
        value = self.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self.error(
                f"{key} is {shown(value)}, expected a whole number from {low} to {high}"
            )
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        value = self.get(key)
        if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
            raise self.error(f"{key} is {shown(value)}, expected a number from {low:g} to {high:g}")
        return float(value)  # type: ignore[arg-type]

    def boolean(self, key: str) -> bool:
        """True or false."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.error(f"{key} is {shown(value)}, expected true or false")
        return value

    def token_ids(self, key: str, vocab_size: int) -> list[int]:
        """A token id, a list of them or null, as a list."""
        value = self.get(key)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        for token_id in ids:
            if type(token_id) is not int or not 0 <= token_id < vocab_size:
                raise self.error(
                    f"{key} holds {shown(token_id)}, expected 0 to {vocab_size - 1}, or null in "
                    "place of all if there is no such token"
                )
        return list(ids)


def shown(value: object) -> str:
    """A value from a file, for a message: no longer than it helps."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list of lists of...
        return "a value too long to print"
    return text if len(text) <= 100 else f"{text[:100]}..."


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that the checkpoint must hold, by its published name."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MatrixSource:
    """Rows of a tensor, which is seen as a matrix of its last dimension."""

    tensor: TensorSpec
    first_row: int
    rows: int
    kind: str  # row of the error report, such as "q_proj"; "": exact, so not reported

    @property
    def cols(self) -> int:
        """Columns of the matrix."""
        return self.tensor.shape[-1]

    @property
    def name(self) -> str:
        """For messages: the tensor, and which rows where that is not all of them."""
        if self.rows * self.cols == math.prod(self.tensor.shape):
            return self.tensor.name
        return f"{self.tensor.name} rows {self.first_row} to {self.first_row + self.rows - 1}"


def whole(tensor: TensorSpec, kind: str) -> MatrixSource:
    """All rows of a tensor."""
    return MatrixSource(tensor, 0, math.prod(tensor.shape[:-1]), kind)


@dataclass(frozen=True)
class DenseSource:
    """Where a tensor of dense.safetensors comes from. A router is a matrix that stays f32."""

    tensor: TensorSpec
    role: Literal["matrix", "router", "vector"]
    kind: str = ""  # as in MatrixSource


@dataclass(frozen=True)
class ExpertSpec:
    """Where the three matrices of one expert come from."""

    gate_proj: MatrixSource  # [intermediate_size, hidden_size]
    up_proj: MatrixSource  # [intermediate_size, hidden_size]
    down_proj: MatrixSource  # [hidden_size, intermediate_size]

    def matrices(self) -> tuple[MatrixSource, MatrixSource, MatrixSource]:
        """All three."""
        return self.gate_proj, self.up_proj, self.down_proj


@dataclass(frozen=True)
class Architecture:
    """One row of the registry."""

    name: str
    expert_ffn: str
    parse_config: Callable[[Json, Path], ModelConfig]  # raises CheckpointError
    router: Callable[[ModelConfig], Json]  # the manifest's router spec
    dense_sources: Callable[[ModelConfig], list[DenseSource]]  # everything that is not an expert
    # (config, layer, expert, fused)
    expert: Callable[[ModelConfig, int, int, bool], ExpertSpec]
    # Tensors that some checkpoints carry and that hold nothing of their own.
    ignores: Callable[[ModelConfig, str], bool]
    published_name: Callable[[str], str]  # of a tensor that some software names differently
    is_fused: Callable[[Iterable[str]], bool]  # by published names: one tensor for all experts
