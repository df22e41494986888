# SPDX-License-Identifier: Apache-2.0
"""Who may import whom in Python. Imports for type checkers and in functions count, too."""

import pytest

from support.source.python_imports import find_circle, import_graph, imported, read_modules
from support.source.source_tree import ROOT

# An arrow is "may import"; arrows are transitive. A name is a folder or a module of adapmoe itself,
# "adapmoe" what `import adapmoe` gives, "adapmoe_export" all of the exporter.
ARROWS = {
    "cli": {
        "adapmoe",
        "adapmoe_export",
        "bench",
        "conversation",
        "doctor",
        "planning",
        "report",
        "serve",
        "tensorrt",
    },
    "serve": {"conversation", "planning"},
    "adapmoe_export": {"text"},
    "adapmoe": {"llm"},
    "planning": {"calibration"},
    "report": {"calibration"},
    "calibration": {"llm"},
    "bench": {"llm"},
    "conversation": {"llm"},
    "llm": {"generation", "opening", "settings"},
    "doctor": {"opening"},
    "opening": {"tracing", "settings"},
    "tracing": {"pack"},
    "generation": {"text"},
    "text": {"pack"},
    "tensorrt": {"pack"},
    "pack": {"machine"},
    "machine": {"_core", "errors", "units"},
    "settings": {"errors", "units"},
    "units": {"checks"},
    "_core": {"core_types", "errors"},
    "checks": set(),
    "core_types": set(),
    "errors": set(),
}


# `python -m` of a folder is its verb. Nobody imports these modules.
ENTRY_POINTS = {"adapmoe.serve.__main__": "cli"}


def modules():
    ours = read_modules(ROOT / "python/adapmoe") | read_modules(ROOT / "export/adapmoe_export")
    assert len(ours) > 80
    return ours


def area(module):
    """The row of ARROWS that `module` is in."""
    parts = module.split(".")
    return parts[1] if parts[0] == "adapmoe" and len(parts) > 1 else parts[0]


def reachable(name):
    found = {name}
    for target in ARROWS[name]:
        found |= reachable(target)
    return found


def arrow_problems(graph):
    """Imports of `graph` that no arrow allows."""
    return [
        f"{module}: {area(module)} may not import {target}"
        for module, targets in sorted(graph.items())
        for target in sorted(targets)
        if area(target) not in reachable(ENTRY_POINTS.get(module, area(module)))
    ]


def test_the_table_lists_every_folder_and_root_module():
    assert {area(module) for module in modules()} == set(ARROWS)


def test_the_arrows_themselves_have_no_circle():
    assert find_circle(ARROWS) == []


def test_imports_follow_the_arrows():
    problems = arrow_problems(import_graph(modules()))
    assert not problems, "\n".join(problems)


def test_no_modules_import_each_other():
    circle = find_circle(import_graph(modules()))
    assert not circle, " -> ".join(circle)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import adapmoe.pack.manifest", {"adapmoe.pack.manifest"}),
        ("import adapmoe.pack.manifest as manifest, numpy", {"adapmoe.pack.manifest"}),
        ("from adapmoe.pack import manifest", {"adapmoe.pack.manifest"}),
        ("from adapmoe.pack import *", {"adapmoe.pack"}),
        ("from adapmoe.pack.manifest import PackGeometry", {"adapmoe.pack.manifest"}),
        ("from adapmoe import LLM", {"adapmoe"}),
        ("def f():\n    from adapmoe import LLM", {"adapmoe"}),
        ("if TYPE_CHECKING:\n    import adapmoe", {"adapmoe"}),
        ("importlib.import_module('adapmoe.pack.manifest')", {"adapmoe.pack.manifest"}),
        ("__import__('adapmoe.pack')", {"adapmoe.pack"}),
        ("import adapmoeba\nimport numpy\nopen('adapmoe.pack')", set()),
    ],
)
def test_what_counts_as_an_import(text, found):
    assert imported(text, {"adapmoe", "adapmoe.pack", "adapmoe.pack.manifest"}) == found


def test_relative_imports_are_refused():
    with pytest.raises(ValueError, match="line 1: a relative import"):
        imported("from . import manifest", {"adapmoe"})


@pytest.mark.parametrize(
    ("module", "target", "accepted"),
    [
        ("adapmoe.cli.run", "adapmoe", True),
        ("adapmoe.cli.verify", "adapmoe_export.numerics", True),
        ("adapmoe.cli.run", "adapmoe.units", True),
        ("adapmoe.serve.keys", "adapmoe.cli.names", False),
        ("adapmoe.serve.__main__", "adapmoe.cli", True),
        ("adapmoe.llm", "adapmoe.cli.run", False),
        ("adapmoe.llm", "adapmoe", False),
        ("adapmoe.generation.stream", "adapmoe.llm", False),
        ("adapmoe.generation.stream", "adapmoe.generation.request", True),
        ("adapmoe.generation.stream", "adapmoe.opening.gating", False),
        ("adapmoe.opening.gating", "adapmoe.doctor.gpu", False),
        ("adapmoe.machine.files", "adapmoe.pack.manifest", False),
        ("adapmoe.errors", "adapmoe.units", False),
        ("adapmoe_export.plan", "adapmoe.text.tokenizer", True),
        ("adapmoe_export.plan", "adapmoe.cli.output", False),
        ("adapmoe.pack.verify", "adapmoe_export.plan", False),
    ],
)
def test_the_arrow_rule_itself(module, target, accepted):
    """On trees of two modules, one of which imports the other."""
    tree = {module: f"import {target}", target: ""}
    assert (arrow_problems(import_graph(tree)) == []) is accepted


@pytest.mark.parametrize(
    ("tree", "circle"),
    [
        ({"a": "import b", "b": "import c", "c": ""}, []),
        ({"a": "import a"}, []),
        ({"a": "import b", "b": "import a"}, ["a", "b", "a"]),
        ({"a": "from b import x", "b": "if TYPE_CHECKING:\n    from a import y"}, ["a", "b", "a"]),
        ({"a": "import b", "b": "def f():\n    import a"}, ["a", "b", "a"]),
        ({"a": "import b", "b": "class C:\n    from a import y"}, ["a", "b", "a"]),
        ({"a": "import b", "b": "import c", "c": "import a"}, ["a", "b", "c", "a"]),
        (
            {"p": "", "p.a": "from p import b", "p.b": "from p.a import x"},
            ["p.a", "p.b", "p.a"],
        ),
    ],
)
def test_the_circle_rule_itself(tree, circle):
    assert find_circle(import_graph(tree)) == circle
