# SPDX-License-Identifier: Apache-2.0
"""Reads a Hugging Face checkpoint directory, one tensor at a time."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors needs)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from adapmoe.errors import CheckpointError
from adapmoe_export.architecture import Json, TensorSpec

SOURCE_DTYPES = ("BF16", "F16", "F32")
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class HfCheckpoint:
    """A directory with config.json and single or sharded safetensors."""

    def __init__(self, path: Path) -> None:
        """Read config.json and the index, no weights. Raises CheckpointError."""
        self.path = path
        self.config_path = path / "config.json"
        if not path.is_dir():
            raise CheckpointError(f"{path}: not a directory; give a Hugging Face checkpoint")
        if not self.config_path.is_file():
            raise CheckpointError(f"{path}: no config.json; give a Hugging Face checkpoint")
        self.config_bytes = self.config_path.read_bytes()
        self.config = _parse_object(self.config_path, self.config_bytes)
        self._files = self._index()
        self.dtypes: set[str] = set()  # of the tensors that were checked

    def _index(self) -> dict[str, Path]:
        """Tensor name -> the file that holds it."""
        index_path, single_path = self.path / _INDEX, self.path / _SINGLE
        if index_path.is_file():
            weight_map = _parse_object(index_path, index_path.read_bytes()).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise CheckpointError(f"{index_path}: no weight_map")
            return {name: self._shard(index_path, file) for name, file in weight_map.items()}
        if single_path.is_file():
            with _open(single_path) as file:
                return {name: single_path for name in file.keys()}  # noqa: SIM118
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

    def check(self, specs: Iterable[TensorSpec], ignores: Callable[[str], bool]) -> None:
        """Compare every tensor's name, shape and dtype with `specs`, reading headers only.

        Tensors that `specs` lacks and `ignores` does not name are refused: dropping one would
        change the model. Raises CheckpointError.
        """
        wanted = {spec.name: spec for spec in specs}
        for name in sorted(set(self._files) - set(wanted)):
            if not ignores(name):
                raise CheckpointError(
                    f"{self._files[name]}: unexpected tensor {name}; the architecture has none such"
                )
        by_file: dict[Path, list[TensorSpec]] = {}
        for name, spec in wanted.items():
            if name not in self._files:
                raise CheckpointError(f"{self.path}: tensor {name} is missing")
            by_file.setdefault(self._files[name], []).append(spec)
        for path, file_specs in sorted(by_file.items()):
            self._check_file(path, file_specs)

    def _check_file(self, path: Path, specs: list[TensorSpec]) -> None:
        with _open(path) as file:
            present = set(file.keys())
            for spec in specs:
                if spec.name not in present:
                    raise CheckpointError(f"{path}: tensor {spec.name} is missing")
                view = file.get_slice(spec.name)
                shape, dtype = tuple(view.get_shape()), str(view.get_dtype())
                if dtype not in SOURCE_DTYPES:
                    raise CheckpointError(
                        f"{path}: tensor {spec.name} is {dtype}, expected BF16, F16 or F32"
                    )
                if shape != spec.shape:
                    raise CheckpointError(
                        f"{path}: tensor {spec.name} has shape {list(shape)}, "
                        f"expected {list(spec.shape)} by config.json"
                    )
                self.dtypes.add(dtype)

    def read(self, spec: TensorSpec) -> NDArray[Any]:
        """The tensor in its own dtype (bfloat16, float16 or float32), every value finite.

        The file is open only meanwhile, so that its mapped pages do not add up. Raises
        CheckpointError for an infinity or a NaN.
        """
        path = self._files[spec.name]
        with _open(path) as file:
            tensor: NDArray[Any] = file.get_tensor(spec.name)
        finite = np.isfinite(tensor)
        if not finite.all():
            place = np.unravel_index(int(np.argmin(finite)), tensor.shape)
            raise CheckpointError(
                f"{path}: tensor {spec.name} holds {float(tensor[place])} "
                f"at {[int(i) for i in place]}; weights must be finite"
            )
        return tensor


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a complete safetensors file ({error}); download it again"
        ) from error


def _parse_object(path: Path, text: bytes) -> Json:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value
