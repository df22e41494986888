# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face checkpoint directory: which tensors it holds, and their rows."""

import json
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from adapmoe.errors import CheckpointError
from adapmoe_export.architecture import Json, MatrixSource, TensorSpec
from adapmoe_export.safetensors_file import (
    READABLE,
    TensorPlace,
    Weights,
    read_header,
    read_rows,
)
from adapmoe_export.unsupported_sources import (
    refuse_config,
    refuse_dtype,
    refuse_names,
    refuse_path,
    refuse_pointers,
)

# Copied into the pack where the checkpoint has them.
COPIED_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
_PIECE_WEIGHTS = 1 << 22  # how many are compared at a time


class HfCheckpoint:
    """A directory with config.json and single or sharded safetensors. Safe to read from threads."""

    def __init__(self, path: Path) -> None:
        """Read config.json and the index, no weights. Raises CheckpointError."""
        self.path = path
        refuse_path(path)
        refuse_pointers(_files_to_read(path))
        self.config_path = path / "config.json"
        if not self.config_path.is_file():
            raise CheckpointError(f"{path}: no config.json; give a Hugging Face checkpoint")
        self.config, self.config_bytes = _read_json(self.config_path)
        refuse_config(self.config, self.config_path)
        self._index: dict[str, Path] = {}  # name -> file, as the index says; empty without one
        self._headers = {file: read_header(file) for file in self._weight_files()}
        self._files = self._tensors()  # name in the files -> file
        refuse_names(self._files, path)
        self._names = {name: name for name in self._files}  # published name -> name in the files
        self._places: dict[str, TensorPlace] = {}  # published name -> place; filled by check()
        self.dtypes: set[str] = set()  # of the tensors that were checked

    def _weight_files(self) -> list[Path]:
        """The files that transformers would load: of a single file and an index, the file."""
        index_path, single_path = self.path / _INDEX, self.path / _SINGLE
        if single_path.is_file():
            return [single_path]
        if index_path.is_file():
            return self._indexed_files(index_path)
        if shards := _numbered_shards(self.path):
            return shards
        raise CheckpointError(
            f"{self.path}: neither {_SINGLE} nor {_INDEX}; only safetensors weights are read"
        )

    def _indexed_files(self, index_path: Path) -> list[Path]:
        weight_map = read_json_object(index_path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index_path}: no weight_map")
        self._index = {name: self._shard(index_path, file) for name, file in weight_map.items()}
        shards = sorted(set(self._index.values()))
        refuse_pointers(shards)
        return shards

    def _shard(self, index_path: Path, file: object) -> Path:
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index_path}: {file!r} is not the name of a file")
        shard = self.path / file
        if not shard.is_file():
            raise CheckpointError(f"{shard}: this shard is missing; download it again")
        return shard

    def _tensors(self) -> dict[str, Path]:
        """Name -> file, from the files themselves.

        transformers loads all that the shards hold, listed in the index or not, and of a tensor
        that is in two shards the last. So the index alone is not to be trusted.
        """
        files: dict[str, Path] = {}
        for file, header in self._headers.items():
            for name in header:
                other = files.setdefault(name, file)
                if other != file:
                    raise CheckpointError(
                        f"{file}: tensor {name} is in {other.name} as well; delete the one that "
                        "does not belong to the model"
                    )
        for name, file in self._index.items():
            if name not in self._headers[file]:
                raise CheckpointError(
                    f"{file}: tensor {name} is missing, though {_INDEX} says that it is there; "
                    "download both files again"
                )
        return files

    def rename(self, published_name: Callable[[str], str]) -> None:
        """From now on, find tensors by their published names. Raises CheckpointError."""
        self._names = {}
        for name in self._files:
            other = self._names.setdefault(published_name(name), name)
            if other != name:
                raise CheckpointError(f"{self.path}: {other} and {name} are the same tensor")

    def use_for(self, missing: str, present: str) -> None:
        """Find the tensor `missing` where `present` is. Both are published names."""
        self._names[missing] = self._names[present]

    @property
    def names(self) -> Iterable[str]:
        """Published names of all tensors."""
        return self._names

    @property
    def files(self) -> list[Path]:
        """The files that hold weights."""
        return sorted(set(self._files.values()))

    def describe(self, name: str) -> str:
        """File and tensor, for messages. `name` is the published one."""
        return f"{self._files[self._names[name]]}: tensor {self._names[name]}"

    def check(self, specs: Iterable[TensorSpec], ignores: Callable[[str], bool]) -> None:
        """Compare every tensor's name, shape and dtype with `specs`, reading headers only.

        Tensors that `specs` lacks and `ignores` does not name are refused: dropping one would
        change the model. Raises CheckpointError.
        """
        self._places, self.dtypes = {}, set()
        wanted = {spec.name: spec for spec in specs}
        for name in sorted(set(self._names) - set(wanted)):
            if not ignores(name):
                file, tensor = self._files[self._names[name]], self._names[name]
                raise CheckpointError(
                    f"{file}: unexpected tensor {tensor}, which the architecture does not have"
                )
        for name, spec in wanted.items():
            if name not in self._names:
                raise CheckpointError(f"{self.path}: tensor {name} is missing")
            self._places[name] = self._checked_place(spec)
        self.dtypes = {place.dtype for place in self._places.values()}

    def _checked_place(self, spec: TensorSpec) -> TensorPlace:
        where, name = self.describe(spec.name), self._names[spec.name]
        place = self._headers[self._files[name]][name]
        if place.dtype not in READABLE:
            refuse_dtype(where, place.dtype)
        if place.shape != spec.shape:
            raise CheckpointError(
                f"{where} has shape {list(place.shape)}, expected {list(spec.shape)} by config.json"
            )
        return place

    def itemsize(self, spec: TensorSpec) -> int:
        """Bytes of one weight of a checked tensor."""
        return READABLE[self._places[spec.name].dtype][1].itemsize

    def read(self, spec: TensorSpec, first_row: int, rows: int) -> Weights:
        """Rows of a checked tensor seen as a matrix of its last dimension: [rows, last dimension].

        A tensor of one dimension is one row. Values may be infinite or NaN. Raises CheckpointError.
        """
        path = self._files[self._names[spec.name]]
        return read_rows(path, self._places[spec.name], first_row, rows)

    def same_values(self, one: TensorSpec, other: TensorSpec) -> bool:
        """Whether two checked matrices of one shape hold the same numbers, in whatever dtypes."""
        rows, cols = one.shape
        step = max(_PIECE_WEIGHTS // cols, 1)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            left, right = (self.read(spec, first, count).to_float32() for spec in (one, other))
            if not np.array_equal(left, right):
                return False
        return True


class LazyMatrix:
    """A matrix that is read once, by whichever thread needs it first."""

    def __init__(self, checkpoint: HfCheckpoint, source: MatrixSource) -> None:
        """Nothing is read yet."""
        self._checkpoint = checkpoint
        self._source = source
        self._lock = threading.Lock()
        self._weights: Weights | None = None

    def get(self) -> Weights:
        """The matrix [rows, cols]. Raises CheckpointError."""
        with self._lock:
            if self._weights is None:
                source = self._source
                self._weights = self._checkpoint.read(source.tensor, source.first_row, source.rows)
            return self._weights


def _files_to_read(path: Path) -> list[Path]:
    """What an export reads, as far as that is known before the index is read."""
    single = path / _SINGLE
    weights = [single] if single.is_file() else [path / _INDEX, *path.glob("model-*.safetensors")]
    names = ("config.json", "added_tokens.json", *COPIED_FILES)
    return [*(path / name for name in names), *sorted(weights)]


def _numbered_shards(path: Path) -> list[Path]:
    """model-00001-of-0000N.safetensors to the last; [] if there are no such files."""
    found: dict[int, dict[int, Path]] = {}  # N -> number -> file
    for file in path.iterdir():
        if match := _SHARD.fullmatch(file.name):
            found.setdefault(int(match[2]), {})[int(match[1])] = file
    if len(found) > 1:
        raise CheckpointError(
            f"{path}: holds shards of several models (N of {sorted(found)}) and no {_INDEX} that "
            "says which to read; delete the others"
        )
    for total, files in found.items():
        missing = next((number for number in range(1, total + 1) if number not in files), None)
        if missing is not None:
            raise CheckpointError(
                f"{path}: shard {missing} of {total} is missing, and {_INDEX} too; download them"
            )
    return [file for files in found.values() for _, file in sorted(files.items())]


def read_json_object(path: Path) -> Json:
    """The JSON object in a file of the checkpoint. Raises CheckpointError."""
    return _read_json(path)[0]


def _read_json(path: Path) -> tuple[Json, bytes]:
    try:
        text = path.read_bytes()
        value = json.loads(text)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value, text
