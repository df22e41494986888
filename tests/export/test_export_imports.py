# SPDX-License-Identifier: Apache-2.0
"""The exporter's modules form a tree of layers, and know nothing of the command line's verbs."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from support.source.source_tree import ROOT

FOLDER = ROOT / "export" / "adapmoe_export"


def imported_modules(text):
    """Modules that a file imports, inside functions and for type checkers as well."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows(sources):
    """{module: those of `sources` that it imports}."""
    found = {name: set(imported_modules(text)) & set(sources) for name, text in sources.items()}
    return {name: targets - {name} for name, targets in found.items()}


def sources():
    files = {f"adapmoe_export.{path.stem}": path.read_text() for path in FOLDER.glob("*.py")}
    files["adapmoe_export"] = files.pop("adapmoe_export.__init__")
    return files


def test_no_circles():
    modules = arrows(sources())
    assert any(modules.values())
    order = list(TopologicalSorter(modules).static_order())
    assert order[-1] in ("adapmoe_export", "adapmoe_export.cli", "adapmoe_export.numerics")


def test_a_circle_would_be_found():
    circle = {"a": "from b import x", "b": "if TYPE_CHECKING:\n    import a", "c": "import a"}
    with pytest.raises(CycleError):
        list(TopologicalSorter(arrows(circle)).static_order())


def test_the_command_line_imports_the_exporter_and_not_the_other_way_round():
    for name, text in sources().items():
        upwards = [
            module for module in imported_modules(text) if f"{module}.".startswith("adapmoe.cli.")
        ]
        assert not upwards, name
