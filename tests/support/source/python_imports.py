# SPDX-License-Identifier: Apache-2.0
"""Which of our Python modules import which: at the top, in functions and for type checkers."""

import ast
from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

_BY_NAME = ("import_module", "__import__")


def read_modules(folder: Path) -> dict[str, str]:
    """{dotted name: source} of the package at `folder`, stubs of compiled modules included."""
    found = {}
    for path in sorted(folder.rglob("*.py*")):
        if path.suffix in (".py", ".pyi"):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path.read_text()
    return found


def imported(text: str, known: Collection[str]) -> set[str]:
    """Those of the modules `known` that `text` imports anywhere."""
    names = _imported_names(ast.parse(text))
    return {module for name in names if (module := _module(name, known))}


def import_graph(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """{module: those it imports}. Importing a module also runs its package; that is not counted."""
    return {name: imported(text, modules) - {name} for name, text in modules.items()}


def find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one also last; [] if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # graphlib lists the imported module first
    return []


def _imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"line {node.lineno}: a relative import; write the whole name")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else ""
            name = function.id if isinstance(function, ast.Name) else name
            if name in _BY_NAME:
                yield str(node.args[0].value)


def _module(name: str, known: Collection[str]) -> str | None:
    """`a.b.c` is the module a.b.c, something in the module a.b, or neither is ours."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None
