# SPDX-License-Identifier: Apache-2.0
"""Checks what callers pass: first types, then ranges.

Each check takes a name for messages and a value, and returns the value as a plain Python object:
an int for a NumPy integer, for example. A wrong type raises TypeError, a value out of range
ValueError; both messages give the name, what was expected and what was given. A boolean is never a
number.
"""

import math
import os
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Checked = TypeVar("Checked")

INT64_MAX = 2**63 - 1


def shown(value: object) -> str:
    """The value for a message: always short, and with its type unless it is an integer."""
    try:
        text = reprlib.repr(value)
    except Exception:  # somebody else's repr(), or an int with too many digits to print
        return f"a value of type {type(value).__name__}"
    return text if value is None or type(value) is int else f"{text} ({type(value).__name__})"


def wrong_type(name: str, expected: str, value: object) -> TypeError:
    """The error for a value of a wrong type."""
    return TypeError(f"{name} must be {expected}, not {shown(value)}")


def out_of_range(name: str, expected: str, value: object) -> ValueError:
    """The error for a value of the right type that is not allowed."""
    return ValueError(f"{name} must be {expected}, not {shown(value)}")


def integer(
    name: str,
    value: object,
    low: int | None = None,
    high: int | None = None,
    *,
    expected: str = "an integer",
) -> int:
    """An integer from `low` to `high`; None: no limit. `expected`: what messages call it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise wrong_type(name, expected, value)
    number = int(value)
    if (low is not None and number < low) or (high is not None and number > high):
        raise out_of_range(name, _range(low, high), number)
    return number


def number(name: str, value: object) -> float:
    """A finite number as a float. Integers count."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise wrong_type(name, "a number", value)
    try:
        with np.errstate(over="ignore"):  # a longdouble may be too large
            found = float(value)
    except OverflowError:  # so may an int
        found = math.inf
    if not math.isfinite(found):
        raise out_of_range(name, "a finite number", value)
    return found


def within(name: str, value: object, low: float, high: float) -> float:
    """A number from `low` to `high`."""
    found = number(name, value)
    if not low <= found <= high:
        raise out_of_range(name, f"from {low:g} to {high:g}", found)
    return found


def flag(name: str, value: object) -> bool:
    """True or False, and nothing that Python would merely treat as one of them."""
    if not isinstance(value, bool | np.bool_):
        raise wrong_type(name, "True or False", value)
    return bool(value)


def text(name: str, value: object) -> str:
    """A string, perhaps empty, that UTF-8 can hold."""
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must be text that UTF-8 can hold, but character {error.start} is half a "
            "surrogate pair"
        ) from None
    return value


def choice(name: str, value: object, known: Collection[str]) -> str:
    """One of the strings `known`."""
    found = text(name, value)
    if found not in known:
        raise out_of_range(name, f"one of {', '.join(known)}", found)
    return found


def path(name: str, value: object) -> str | os.PathLike[str]:
    """A path as text, not bytes: it appears in messages and JSON."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise wrong_type(name, "a path, a string or pathlib.Path", value)
    return value


def items(name: str, value: object, expected: str) -> tuple[Any, ...]:
    """A list, or another iterable, as a tuple. Strings and mappings are refused."""
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        raise wrong_type(name, expected, value)
    try:
        return tuple(value)
    except TypeError:  # an array without dimensions only looks iterable
        raise wrong_type(name, expected, value) from None


def optional(check: Callable[[str, Any], Checked], name: str, value: object) -> Checked | None:
    """None, or what `check` accepts."""
    return None if value is None else check(name, value)


def token_id(name: str, value: object, vocab_size: int | None = None) -> int:
    """The id of one token, below `vocab_size` if that is known."""
    found = integer(name, value, 0, expected="a token id, an integer")
    if vocab_size is not None and found >= vocab_size:
        raise _unknown_token(name, found, vocab_size)
    return found


def token_ids(name: str, value: object, vocab_size: int) -> NDArray[np.int32]:
    """At least one token id, from a sequence or a one-dimensional array, as int32 `[n]`."""
    ids = _integers(name, value)
    if ids.ndim != 1:
        raise ValueError(f"{name} must be one row of token ids, not an array of shape {ids.shape}")
    if ids.size == 0:
        raise ValueError(f"{name} must be at least one token id, not an empty sequence")
    wrong = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if wrong.size:
        raise _unknown_token(f"{name}[{wrong[0]}]", int(ids[wrong[0]]), vocab_size)
    return np.ascontiguousarray(ids, dtype=np.int32)


def _integers(name: str, value: object) -> NDArray[Any]:
    """The value as an array of integers; an array keeps its shape."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        if set(map(type, value)) != {int}:  # a long prompt of plain ints is checked at once
            value = [
                integer(f"{name}[{at}]", item, expected="a token id, an integer")
                for at, item in enumerate(value)
            ]
        try:
            return np.array(value, np.int64)
        except OverflowError:
            return np.array(value, object)  # the caller refuses its values as out of range
    if not hasattr(value, "__array__"):
        raise wrong_type(name, "token ids, a sequence of integers", value)
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.integer) and array.size:
        raise TypeError(f"{name} must be token ids, integers, not an array of {array.dtype}")
    return array


def _unknown_token(name: str, found: int, vocab_size: int) -> ValueError:
    return ValueError(
        f"{name}: token id {shown(found)} is outside the vocabulary of {vocab_size} tokens"
    )


def _range(low: int | None, high: int | None) -> str:
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"from {low} to {high}"
