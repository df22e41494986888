# SPDX-License-Identifier: Apache-2.0
"""Follows JSON text while it arrives: complete, to be continued, or wrong already."""

import re

MAX_DEPTH = 64

_SPACE = " \t\r\n"
_CLOSERS = {"{": "}", "[": "]"}
_ATOM_START = frozenset("-0123456789tfn")
_ATOM_CHARS = frozenset("0123456789+-.eEtrufalsn")
_ATOM = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?|true|false|null")


class MalformedError(ValueError):
    """The text so far cannot be continued to what was expected."""


class JsonScanner:
    """Reads an object or an array character by character.

    Wrong structure is noticed at the first character that cannot be right, so that nobody waits for
    an end that cannot come. The digits after a backslash and u are left to whoever parses the text.
    """

    def __init__(self) -> None:
        """Before the first character."""
        self._closers: list[str] = []  # of what is open, outermost first
        self._may_come = "value"  # value, first value, key, first key, colon, comma, character
        self._string_is_key = False
        self._escaped = False
        self._atom = ""

    def push(self, char: str) -> bool:
        """Take one character; return whether the object or array is complete with it.

        Raises:
            MalformedError: JSON does not go on like this, or nests deeper than `MAX_DEPTH`.
        """
        if self._may_come == "character":
            self._push_in_string(char)
            return False
        if self._atom:
            if char in _ATOM_CHARS:
                self._atom += char
                return False
            if not _ATOM.fullmatch(self._atom):
                raise MalformedError(f"{self._atom[:40]!r} is not a JSON value")
            self._atom = ""
        if char in _SPACE:
            return False
        return self._push_structure(char)

    def _push_in_string(self, char: str) -> None:
        if self._escaped:
            if char not in '"\\/bfnrtu':
                raise MalformedError(f"a backslash before {char!r}")
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._may_come = "colon" if self._string_is_key else "comma"
        elif char < " ":
            raise MalformedError("a control character in a string")

    def _push_structure(self, char: str) -> bool:
        expected = self._may_come
        if expected == "colon" and char == ":":
            self._may_come = "value"
        elif expected == "comma" and char == ",":
            self._may_come = "key" if self._closers[-1] == "}" else "value"
        elif expected in ("comma", "first key", "first value") and char == self._closers[-1]:
            self._closers.pop()
            self._may_come = "comma"
        elif expected in ("key", "first key") and char == '"':
            self._string_is_key, self._may_come = True, "character"
        elif expected in ("value", "first value"):
            self._start_value(char)
        else:
            raise MalformedError(f"{char!r} where JSON has a {expected}")
        return not self._closers

    def _start_value(self, char: str) -> None:
        if char in _CLOSERS:
            if len(self._closers) == MAX_DEPTH:
                raise MalformedError(f"more than {MAX_DEPTH} levels")
            self._closers.append(_CLOSERS[char])
            self._may_come = "first key" if char == "{" else "first value"
        elif not self._closers or (char != '"' and char not in _ATOM_START):
            raise MalformedError(f"{char!r} where JSON has a value")
        elif char == '"':
            self._string_is_key, self._may_come = False, "character"
        else:
            self._atom, self._may_come = char, "comma"
