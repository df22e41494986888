# SPDX-License-Identifier: Apache-2.0
"""Checks what callers pass: types, then ranges. Pure functions without state.

Each takes the name to show and the value, and returns the value as a plain Python object: the int
of a NumPy integer, for example. A wrong type is a TypeError, a value out of range a ValueError;
both messages say the name, what was expected and what was given. A boolean is never a number.
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
    """The value for a message: short, whatever it is, and with its type unless it is a number."""
    try:
        text = reprlib.repr(value)
    except Exception:  # a repr() of somebody else, or an int with too many digits to print
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
    """A whole number from `low` to `high`; None: no limit. `expected`: what to call its type."""
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
        with np.errstate(over="ignore"):  # a longdouble may be larger
            found = float(value)
    except OverflowError:  # an int may be larger, too
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
    """True or False, and not what Python would count as one of them."""
    if not isinstance(value, bool | np.bool_):
        raise wrong_type(name, "True or False", value)
    return bool(value)


def text(name: str, value: object) -> str:
    """A string that UTF-8 can hold; it may be empty."""
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
    """A path as text; unlike bytes, it can stand in messages and JSON."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise wrong_type(name, "a path, a string or pathlib.Path", value)
    return value


def items(name: str, value: object, expected: str) -> tuple[Any, ...]:
    """A list, or what can be iterated like one, as a tuple. Strings and mappings cannot."""
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        raise wrong_type(name, expected, value)
    try:
        return tuple(value)
    except TypeError:  # an array without dimensions only looks like something to iterate over
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
    """One token id or more, in a sequence or a one-dimensional array, as int32 `[n]`."""
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
    """An array of integers, of any shape if it was one before."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        if set(map(type, value)) != {int}:  # one look at a long prompt without anything odd in it
            value = [
                integer(f"{name}[{at}]", item, expected="a token id, an integer")
                for at, item in enumerate(value)
            ]
        try:
            return np.array(value, np.int64)
        except OverflowError:
            return np.array(value, object)  # compares like any other, and is refused for its values
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
