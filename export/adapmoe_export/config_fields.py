# SPDX-License-Identifier: Apache-2.0
"""Typed access to the fields of a config.json, so that a wrong one is named."""

import math
from pathlib import Path

from adapmoe.errors import CheckpointError
from adapmoe_export.architecture import Json

_MISSING = object()


class ConfigFields:
    """Fields of `raw`, the parsed config.json at `path`. Every getter raises CheckpointError."""

    def __init__(self, raw: Json, path: Path) -> None:
        """Keep both; nothing is checked yet."""
        self._raw = raw
        self.path = path

    def error(self, problem: str) -> CheckpointError:
        """An error that names the file."""
        return CheckpointError(f"{self.path}: {problem}")

    def get(self, key: str, default: object = _MISSING) -> object:
        """The raw value."""
        value = self._raw.get(key, default)
        if value is _MISSING:
            raise self.error(f"{key} is missing")
        return value

    def positive_int(self, key: str, default: object = _MISSING) -> int:
        """An integer of at least 1."""
        value = self.get(key, default)
        if type(value) is not int or value < 1:
            raise self.error(f"{key} is {value!r}, expected a positive integer")
        return value

    def positive_float(self, key: str, default: object = _MISSING) -> float:
        """A finite number above 0."""
        value = self.get(key, default)
        if type(value) is int or type(value) is float:
            number = float(value)
            if math.isfinite(number) and number > 0:
                return number
        raise self.error(f"{key} is {value!r}, expected a positive number")

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} is {value!r}, expected true or false")
        return value

    def token_ids(self, key: str, vocab_size: int, default: int | None) -> list[int]:
        """A token id, a list of them or null, as a list."""
        value = self.get(key, default)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        for token_id in ids:
            if type(token_id) is not int or not 0 <= token_id < vocab_size:
                raise self.error(f"{key} holds {token_id!r}, expected 0 to {vocab_size - 1}")
        return list(ids)
