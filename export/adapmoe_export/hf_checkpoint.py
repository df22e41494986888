# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face checkpoint directory: which tensors it holds, and their rows."""

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

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
)

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class HfCheckpoint:
    """A directory with config.json and single or sharded safetensors. Safe to read from threads."""

    def __init__(self, path: Path) -> None:
        """Read config.json and the index, no weights. Raises CheckpointError."""
        self.path = path
        refuse_path(path)
        self.config_path = path / "config.json"
        if not self.config_path.is_file():
            raise CheckpointError(f"{path}: no config.json; give a Hugging Face checkpoint")
        self.config_bytes = self.config_path.read_bytes()
        self.config = _parse_object(self.config_path, self.config_bytes)
        refuse_config(self.config, self.config_path)
        self._files = self._index()  # name in the files -> file
        refuse_names(self._files, path)
        self._names = {name: name for name in self._files}  # published name -> name in the files
        self._places: dict[str, TensorPlace] = {}  # published name -> place; filled by check()
        self.dtypes: set[str] = set()  # of the tensors that were checked

    def _index(self) -> dict[str, Path]:
        index_path, single_path = self.path / _INDEX, self.path / _SINGLE
        if index_path.is_file():
            weight_map = _parse_object(index_path, index_path.read_bytes()).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise CheckpointError(f"{index_path}: no weight_map")
            return {name: self._shard(index_path, file) for name, file in weight_map.items()}
        if single_path.is_file():
            return dict.fromkeys(read_header(single_path), single_path)
        raise CheckpointError(
            f"{self.path}: neither {_SINGLE} nor {_INDEX}; only safetensors weights are read"
        )

    def _shard(self, index_path: Path, file: object) -> Path:
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index_path}: {file!r} is not the name of a file")
        shard = self.path / file
        if not shard.is_file():
            raise CheckpointError(f"{shard}: this shard is missing; download it again")
        return shard

    def rename(self, published_name: Callable[[str], str]) -> None:
        """From now on, find tensors by their published names. Raises CheckpointError."""
        self._names = {}
        for name in self._files:
            other = self._names.setdefault(published_name(name), name)
            if other != name:
                raise CheckpointError(f"{self.path}: {other} and {name} are the same tensor")

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
        wanted = {spec.name: spec for spec in specs}
        for name in sorted(set(self._names) - set(wanted)):
            if not ignores(name):
                file, tensor = self._files[self._names[name]], self._names[name]
                raise CheckpointError(
                    f"{file}: unexpected tensor {tensor}; the architecture has none such"
                )
        by_file: dict[Path, list[TensorSpec]] = {}
        for name, spec in wanted.items():
            if name not in self._names:
                raise CheckpointError(f"{self.path}: tensor {name} is missing")
            by_file.setdefault(self._files[self._names[name]], []).append(spec)
        for path, file_specs in sorted(by_file.items()):
            self._check_file(path, file_specs)

    def _check_file(self, path: Path, specs: list[TensorSpec]) -> None:
        header = read_header(path)
        for spec in specs:
            where = self.describe(spec.name)
            place = header.get(self._names[spec.name])
            if place is None:
                raise CheckpointError(f"{where} is missing")
            if place.dtype not in READABLE:
                refuse_dtype(where, place.dtype)
            if place.shape != spec.shape:
                raise CheckpointError(
                    f"{where} has shape {list(place.shape)}, "
                    f"expected {list(spec.shape)} by config.json"
                )
            self.dtypes.add(place.dtype)
            self._places[spec.name] = place

    def itemsize(self, spec: TensorSpec) -> int:
        """Bytes of one weight of a checked tensor."""
        return READABLE[self._places[spec.name].dtype][1].itemsize

    def read(self, spec: TensorSpec, first_row: int, rows: int) -> Weights:
        """Rows of a checked tensor seen as a matrix of its last dimension: [rows, last dimension].

        A tensor of one dimension is one row. Values may be infinite or NaN. Raises CheckpointError.
        """
        path = self._files[self._names[spec.name]]
        return read_rows(path, self._places[spec.name], first_row, rows)


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


def _parse_object(path: Path, text: bytes) -> Json:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value
