# SPDX-License-Identifier: Apache-2.0
"""Grammars in the language of llguidance: of a JSON schema, and of a tool's call."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from adapmoe.serve.tool_calls import CallSyntax, is_tool_name

MAX_SCHEMA_BYTES = 64 * 1024  # as JSON in ASCII
MAX_TOOLS_BYTES = 256 * 1024  # of the schemas of all tools that may be called
MAX_SCHEMA_DEPTH = 32

# White space without bounds is where a model that is held to JSON gets lost.
_JSON_OPTIONS = {"whitespace_pattern": r"( |\n {0,32})?"}

Mark = Callable[[str], str]  # from a mark such as "<tool_call>" to how a grammar writes it


class ConstraintError(ValueError):
    """A schema or grammar that cannot be used; the message says why."""


class Function(NamedTuple):
    """A tool's function.

    Attributes:
        name: its own.
        where: it has its parameters, for messages.
        parameters: their JSON schema as text.
    """

    name: str
    where: str
    parameters: str


def schema_grammar(schema: str) -> str:
    """The grammar of what a schema, from `schema_text`, allows."""
    return f"start: %json {schema}\n"


def call_grammar(functions: Sequence[Function], syntax: CallSyntax, mark: Mark) -> str:
    """The grammar of exactly one call of one of the functions."""
    rules = [f"start: {_frame(syntax, mark)}"]
    rules.append("call: " + " | ".join(f"call_{at}" for at in range(len(functions))))
    for at, function in enumerate(functions):
        rules.append(
            f"call_{at}: {_begin(function.name, syntax, mark)} arguments_{at}{_end(syntax)}"
        )
        rules.append(f"arguments_{at}: %json {function.parameters}")
    return "\n".join(rules) + "\n"


def choose_functions(tools: Sequence[Mapping[str, Any]], name: str | None) -> list[Function]:
    """The function called `name`, or all of them, checked.

    Args:
        tools: in the form of OpenAI's and transformers' `tools`.
        name: None: all.

    Raises:
        ConstraintError: a tool is wrong, there is none, or their schemas are too large.
    """
    functions = [_function(f"tools[{at}]", tool) for at, tool in enumerate(tools)]
    chosen = [function for function in functions if name is None or function.name == name]
    if not chosen:
        known = ", ".join(function.name for function in functions) or "none"
        raise ConstraintError(f"there is no tool to call named {name!r}; there are: {known}")
    size = sum(len(function.parameters) for function in chosen)
    if size > MAX_TOOLS_BYTES:
        raise ConstraintError(
            f"the parameters of the tools have {size} bytes; at most {MAX_TOOLS_BYTES} can be "
            "where a call is forced: name the one to call"
        )
    return chosen


def schema_text(name: str, schema: Mapping[str, Any]) -> str:
    """The schema as JSON for a grammar, in one line of ASCII.

    Raises:
        ConstraintError: it is too large, too deep, or JSON cannot hold it. `name` says which it is.
    """
    try:
        text = json.dumps({**schema, "x-guidance": _JSON_OPTIONS}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConstraintError(f"{name} must hold only what JSON can hold: {error}") from error
    except RecursionError:
        raise _too_deep(name) from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise ConstraintError(f"{name} has {len(text)} bytes; at most {MAX_SCHEMA_BYTES} can be")
    if _nests_deeper(schema, MAX_SCHEMA_DEPTH):
        raise _too_deep(name)
    return text


def _too_deep(name: str) -> ConstraintError:
    return ConstraintError(f"{name} nests deeper than {MAX_SCHEMA_DEPTH} levels; flatten it")


def _nests_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, Mapping | list | tuple):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return levels == 0 or any(_nests_deeper(one, levels - 1) for one in inner)


def _function(where: str, tool: Mapping[str, Any]) -> Function:
    """Checked. Arguments are always an object; without parameters there are none."""
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not is_tool_name(name):
        raise ConstraintError(
            f"{where}.function.name must be letters, digits, '_', '-' and '.', not {name!r}"
        )
    where = f"{where}.function.parameters"
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"properties": {}, "additionalProperties": False}
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise ConstraintError(f'{where} must be the schema of an object, with "type": "object"')
    return Function(name, where, schema_text(where, {"type": "object", **parameters}))


def _frame(syntax: CallSyntax, mark: Mark) -> str:
    """What stands around `call`."""
    if syntax is CallSyntax.HERMES:
        return rf'{mark("<tool_call>")} "\n" call "\n" {mark("</tool_call>")}'
    if syntax is CallSyntax.MISTRAL:
        return f'{mark("[TOOL_CALLS]")} " "? "[" call "]"'
    return f"{mark('[TOOL_CALLS]')} call"


def _begin(name: str, syntax: CallSyntax, mark: Mark) -> str:
    """What stands before the arguments of a call."""
    if syntax is CallSyntax.MISTRAL_ARGS:
        return f'"{name}" {mark("[ARGS]")}'
    return json.dumps(f'{{"name": "{name}", "arguments": ', allow_nan=False)


def _end(syntax: CallSyntax) -> str:
    """What stands after the arguments of a call."""
    return "" if syntax is CallSyntax.MISTRAL_ARGS else ' "}"'
