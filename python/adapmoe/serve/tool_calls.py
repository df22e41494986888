# SPDX-License-Identifier: Apache-2.0
"""Tool calls as models write them: one small parser for each syntax, and the way back."""

import json
import secrets
import string
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from adapmoe.serve.json_scanner import JsonScanner, MalformedError

ID_LENGTH = 9  # what the templates of Mistral's models insist on
_ID_CHARS = string.ascii_letters + string.digits
_NAME_CHARS = frozenset(string.ascii_letters + string.digits + "_-.")
_MAX_NAME = 256

_Result = TypeVar("_Result")
_Reader = Generator[None, str, _Result]  # is sent the text, one character at a time


class CallSyntax(Enum):
    """How a model writes that it calls a tool.

    MISTRAL: `[TOOL_CALLS] [{"name": "f", "arguments": {}}, ...]`.
    MISTRAL_ARGS: `[TOOL_CALLS]f[ARGS]{}`, perhaps several times.
    HERMES: `<tool_call>{"name": "f", "arguments": {}}</tool_call>`, perhaps several times; the last
        closing mark may be missing.
    """

    MISTRAL = "mistral"
    MISTRAL_ARGS = "mistral-args"
    HERMES = "hermes"

    @classmethod
    def of(cls, template: str) -> "CallSyntax | None":
        """The syntax that a chat template writes; None if it has none of these."""
        if "[TOOL_CALLS]" in template:
            return cls.MISTRAL_ARGS if "[ARGS]" in template else cls.MISTRAL
        # With these, other models put XML or pairs of keys and values between the same marks.
        other = "<function=" in template or "<arg_key>" in template
        return cls.HERMES if "<tool_call>" in template and not other else None

    @property
    def marker(self) -> str:
        """The text that every call begins with."""
        return "<tool_call>" if self is CallSyntax.HERMES else "[TOOL_CALLS]"

    @property
    def marks(self) -> frozenset[str]:
        """All marks of the syntax. Tokenizers may have special tokens for them."""
        if self is CallSyntax.HERMES:
            return frozenset({"<tool_call>", "</tool_call>"})
        return frozenset({"[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"})


def new_id() -> str:
    """A random id for a call: 9 letters and digits."""
    return "".join(secrets.choice(_ID_CHARS) for _ in range(ID_LENGTH))


def is_tool_name(name: str) -> bool:
    """Whether all syntaxes can write `name`: 1 to 256 ASCII letters, digits, "_", "-" and "."."""
    return 0 < len(name) <= _MAX_NAME and _NAME_CHARS.issuperset(name)


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for.

    Attributes:
        id: random, of 9 letters and digits.
        name: the tool's.
        arguments: a JSON object as text.
    """

    id: str
    name: str
    arguments: str


class _EndError(MalformedError):
    """The answer ends within a call."""


class CallReader:
    """Reads what follows one marker, character by character."""

    def __init__(self, syntax: CallSyntax) -> None:
        """Right after `syntax.marker`."""
        self._reader = _hermes() if syntax is CallSyntax.HERMES else _mistral()
        next(self._reader)  # up to where it waits for a character

    def push(self, char: str) -> list[ToolCall]:
        """Take one character; return the calls, at least one, that are complete with it.

        After them, or an error, the reader is done.

        Raises:
            MalformedError: the text is no call, however it goes on.
        """
        try:
            self._reader.send(char)
        except StopIteration as done:
            calls: list[ToolCall] = done.value
            return calls
        return []

    def finish(self) -> list[ToolCall]:
        """The answer ends here: return the calls, at least one. Then the reader is done.

        Raises:
            MalformedError: they are not complete.
        """
        try:
            self._reader.throw(_EndError("the answer ends within a call"))
        except StopIteration as done:
            calls: list[ToolCall] = done.value
            return calls
        raise AssertionError("a reader waits for more text after the end")


def _hermes() -> _Reader[list[ToolCall]]:
    """An object, then the closing mark. At the end of an answer models often leave that out."""
    text = yield from _json((yield from _solid()), "{")
    with suppress(_EndError):
        yield from _one_of((yield from _solid()), "</tool_call>")
    return [_call(_parsed(text))]


def _mistral() -> _Reader[list[ToolCall]]:
    """An array of objects; or a name, perhaps an id, and an object. The model's id is not used."""
    first = yield from _solid()
    if first == "[":
        calls = _parsed((yield from _json(first, "[")))
        if not calls:
            raise MalformedError("no calls in the list")
        return [_call(call) for call in calls]
    name, end = yield from _word(first)
    if (yield from _one_of(end, "[ARGS]", "[CALL_ID]")) == "[CALL_ID]":
        _, end = yield from _word((yield))
        yield from _one_of(end, "[ARGS]")
    arguments = _parsed((yield from _json((yield from _solid()), "{")))
    return [_call({"name": name, "arguments": arguments})]


def _solid() -> _Reader[str]:
    """The next character that is not white space."""
    while (char := (yield)).isspace():
        pass
    return char


def _json(char: str, opening: str) -> _Reader[str]:
    """An object or array from its first character, which must be `opening`, to its last."""
    if char != opening:
        raise MalformedError(f"{char!r} where {opening!r} was expected")
    scanner, text = JsonScanner(), [char]
    scanner.push(char)
    while True:
        text.append((yield))
        if scanner.push(text[-1]):
            return "".join(text)


def _one_of(char: str, *marks: str) -> _Reader[str]:
    """One of the marks, from its first character on; returns which."""
    text = char
    while text not in marks:
        if not any(mark.startswith(text) for mark in marks):
            raise MalformedError(f"{text!r} where one of {marks} was expected")
        text += yield
    return text


def _word(char: str) -> _Reader[tuple[str, str]]:
    """A name or an id, from its first character on; returns the character after it, too."""
    word = ""
    while char in _NAME_CHARS and len(word) < _MAX_NAME:
        word += char
        char = yield
    return word, char


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise MalformedError(str(error)) from error


def _call(parsed: Any) -> ToolCall:
    """The call that an object describes. Models leave out arguments, or write them as JSON text."""
    name = parsed.get("name") if isinstance(parsed, dict) else None
    if not isinstance(name, str) or not name:
        raise MalformedError("a call needs a name")
    arguments = parsed.get("arguments")
    if arguments is None:
        arguments = {}
    elif isinstance(arguments, str):
        arguments = _parsed_alone(arguments)
    if not isinstance(arguments, dict):
        raise MalformedError("the arguments of a call are an object")
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        (name + text).encode()
    except ValueError as error:  # a number too large, or half a surrogate pair
        raise MalformedError(str(error)) from error
    return ToolCall(new_id(), name, text)


def _parsed_alone(text: str) -> Any:
    """An object or array that nobody has looked at yet: it may nest too deep for the parser."""
    scanner = JsonScanner()
    if not any(scanner.push(char) for char in text):
        raise MalformedError("the arguments of a call end too early")
    return _parsed(text)


def messages_for_template(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with the arguments of their tool calls as objects, as templates expect them.

    OpenAI's clients send arguments as JSON text. The messages passed in are left as they are.

    Raises:
        ValueError: arguments are text, but not that of a JSON object.
    """
    return [_with_objects(f"messages[{at}]", message) for at, message in enumerate(messages)]


def _with_objects(where: str, message: Mapping[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        return dict(message)
    changed = [_with_object(f"{where}.tool_calls[{at}]", call) for at, call in enumerate(calls)]
    return {**message, "tool_calls": changed}


def _with_object(where: str, call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if function is None or not isinstance(arguments, str):
        return call
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise ValueError(
            f"{where}.function.arguments must be the text of a JSON object such as '{{}}'; send "
            "back what the model wrote"
        )
    return {**call, "function": {**function, "arguments": parsed}}
