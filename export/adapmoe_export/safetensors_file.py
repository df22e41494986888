# SPDX-License-Identifier: Apache-2.0
"""What a safetensors file holds: the header, read and made, and parts of the tensors.

The library checks a file; reading is done here, because the library maps it, and mapped pages count
as resident memory until the kernel needs them.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from adapmoe.errors import CheckpointError

PAGE_BYTES = 4096  # the data of our own files begins on a page

# Safetensors' name -> (the core's name, NumPy's dtype of the elements or of their bits).
READABLE: dict[str, tuple[str, np.dtype[Any]]] = {
    "F32": ("f32", np.dtype("<f4")),
    "F16": ("f16", np.dtype("<u2")),
    "BF16": ("bf16", np.dtype("<u2")),
}


@dataclass(frozen=True)
class TensorPlace:
    """A tensor in a file."""

    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    offset: int  # in the file, in bytes


@dataclass(frozen=True)
class Weights:
    """Values of a tensor: float32, or the uint16 bits of bf16 or f16."""

    bits: NDArray[Any]
    dtype: str  # f32, bf16 or f16

    def to_float32(self) -> NDArray[np.float32]:
        """The values, converted exactly."""
        if self.dtype == "bf16":
            return (self.bits.astype(np.uint32) << 16).view(np.float32)
        if self.dtype == "f16":
            return self.bits.view(np.float16).astype(np.float32)
        return self.bits


def read_header(path: Path) -> dict[str, TensorPlace]:
    """Every tensor of the file at `path`. Raises CheckpointError if the file is incomplete."""
    try:
        with safe_open(path, framework="numpy"), path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a complete safetensors file ({error}); download it again"
        ) from error
    header.pop("__metadata__", None)
    return {
        name: TensorPlace(
            tensor["dtype"], tuple(tensor["shape"]), 8 + length + tensor["data_offsets"][0]
        )
        for name, tensor in header.items()
    }


def read_rows(path: Path, place: TensorPlace, first: int, count: int) -> Weights:
    """Rows `[first, first + count)` of a tensor seen as a matrix of its last dimension.

    The result has shape [count, last dimension]; for a tensor of one dimension, [1, length]. Raises
    CheckpointError. REQUIRES: place.dtype is in READABLE.
    """
    dtype, numpy_dtype = READABLE[place.dtype]
    cols = place.shape[-1]
    assert 0 <= first <= first + count <= math.prod(place.shape[:-1])
    bits = np.empty((count, cols), numpy_dtype)
    _read_into(path, place.offset + first * cols * numpy_dtype.itemsize, bits)
    return Weights(bits, dtype)


def _read_into(path: Path, offset: int, array: NDArray[Any]) -> None:
    buffer = array.reshape(-1).view(np.uint8).data
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            while buffer:
                got = os.preadv(descriptor, [buffer], offset)
                if got == 0:
                    raise CheckpointError(f"{path}: ends at byte {offset}; it shrank since opened")
                buffer, offset = buffer[got:], offset + got
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file that is about to be written."""

    name: str
    dtype: str  # as safetensors spells it: "U8", "F32"
    shape: tuple[int, ...]
    nbytes: int


def make_header(entries: Sequence[TensorEntry]) -> bytes:
    """Length and JSON header, padded with spaces to a multiple of 4 KiB."""
    header: dict[str, Any] = {}
    offset = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text = text.ljust(align_up(8 + len(text), PAGE_BYTES) - 8)
    return len(text).to_bytes(8, "little") + text


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of `alignment` that is at least `value`."""
    return -(-value // alignment) * alignment
