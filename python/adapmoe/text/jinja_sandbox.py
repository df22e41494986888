# SPDX-License-Identifier: Apache-2.0
"""Jinja for templates that nobody has read: no access to Python's objects, no endless loops.

A template comes with a model from the internet. Jinja's sandbox keeps it away from attributes that
lead to Python's internals. Beyond that, loops and macros count their rounds, rendering may take
only so long, and texts and powers larger than any prompt are refused. The time is looked at between
rounds and pieces of text, and memory is not limited to the byte.
"""

import json
import time
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_ROUNDS = 200_000
MAX_LENGTH = 16 * 2**20  # characters, list items, and bits of a power
MAX_SECONDS = 5.0  # of the processor: a busy machine must not make a good template fail

_rounds_left: ContextVar[int] = ContextVar("rounds_left", default=MAX_ROUNDS)
_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))


class TemplateTimeoutError(SecurityError):
    """Rendering took longer than a template may take."""


def render(source: str, variables: dict[str, Any], *, seconds: float = MAX_SECONDS) -> str:
    """Render a chat template in the dialect of transformers.

    Args:
        source: the template.
        variables: what it can refer to.
        seconds: of processor time that it may take.

    Raises:
        TemplateTimeoutError: it takes longer.
        Exception: whatever the template does wrong, from jinja2's errors to ZeroDivisionError.
    """
    template = _compile(source)
    rounds = _rounds_left.set(MAX_ROUNDS)
    deadline = _deadline.set(time.thread_time() + seconds)
    try:
        pieces: list[str] = []
        length = 0
        for piece in template.generate(**variables):
            length += len(piece)
            _check_length(length)
            _check_time()
            pieces.append(piece)
        return "".join(pieces)
    finally:
        _rounds_left.reset(rounds)
        _deadline.reset(deadline)


@lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    return _Environment().from_string(source)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols, _GenerationTag],
        )
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.globals["namespace"] = _PlainNamespace
        del self.globals["lipsum"]  # makes text of any length

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        _Limits().visit(tree)  # in place
        tree.set_environment(self)
        return tree

    def count_round(self) -> None:
        """Templates call this at the start of every loop round and macro call."""
        left = _rounds_left.get() - 1
        if left < 0:
            raise SecurityError(f"more than {MAX_ROUNDS} rounds of loops")
        _rounds_left.set(left)
        _check_time()

    def join(self, *parts: object) -> str:
        """The operator ~."""
        texts = [str(part) for part in parts]
        _check_length(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(
        self,
        context: jinja2.runtime.Context,
        operator: str,
        left: Any,
        right: Any,
    ) -> Any:
        if operator == "**":
            if isinstance(left, int) and isinstance(right, int):
                _check_length(left.bit_length() * right)
        elif operator == "*":
            for one, times in ((left, right), (right, left)):
                if hasattr(one, "__len__") and isinstance(times, int):
                    _check_length(len(one) * times)
        elif hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check_length(len(left) + len(right))
        return super().call_binop(context, operator, left, right)


class _Limits(NodeTransformer):
    """Adds the calls of `count_round` and `join` to a template."""

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.Node:
        return self._count(node)

    def visit_Macro(self, node: jinja2.nodes.Macro) -> jinja2.nodes.Node:
        return self._count(node)

    def visit_CallBlock(self, node: jinja2.nodes.CallBlock) -> jinja2.nodes.Node:
        return self._count(node)

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:
        self.generic_visit(node)
        return _call("join", node.nodes, node.lineno)

    def _count(
        self, node: jinja2.nodes.For | jinja2.nodes.Macro | jinja2.nodes.CallBlock
    ) -> jinja2.nodes.Node:
        self.generic_visit(node)
        node.body.insert(
            0, jinja2.nodes.ExprStmt(_call("count_round", [], node.lineno), lineno=node.lineno)
        )
        return node


def _call(method: str, arguments: list[jinja2.nodes.Expr], lineno: int) -> jinja2.nodes.Call:
    function = jinja2.nodes.EnvironmentAttribute(method, lineno=lineno)
    return jinja2.nodes.Call(function, arguments, [], None, None, lineno=lineno)


class _GenerationTag(jinja2.ext.Extension):
    """{% generation %} marks answers in training data; rendering ignores it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads a class attribute

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=lineno)  # what is set inside is not seen outside


class _PlainNamespace(Namespace):
    """namespace() without names that begin with an underscore."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        values = dict(*args, **kwargs)
        for name in values:
            _check_name(name)
        super().__init__(values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace may not have the name {name!r}")


def _check_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise SecurityError(f"something would be longer than {MAX_LENGTH}")


def _check_time() -> None:
    if time.thread_time() > _deadline.get():
        raise TemplateTimeoutError("the template takes too long")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
