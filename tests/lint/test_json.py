# SPDX-License-Identifier: Apache-2.0
"""What the package and the exporter write as JSON is JSON: NaN and Infinity are not."""

import ast

import pytest

from support.source.source_tree import ROOT

FOLDERS = ("python/adapmoe", "export/adapmoe_export")
# The filter `tojson` of chat templates writes what transformers' does; its result is a prompt.
EXEMPT = {"python/adapmoe/text/jinja_sandbox.py"}


def writers_of_nan(source):
    """Lines of json.dump and json.dumps without allow_nan=False."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("json.dump", "json.dumps")
        and not any(k.arg == "allow_nan" and ast.unparse(k.value) == "False" for k in node.keywords)
    ]


def test_json_is_written_without_nan():
    found = [
        f"{path.relative_to(ROOT)}:{line}: pass allow_nan=False to json.dump and json.dumps"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in EXEMPT
        for line in writers_of_nan(path.read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("json.dumps(x)", [1]),
        ("\njson.dump(x, file, indent=1)", [2]),
        ("json.dumps(x, allow_nan=True)", [1]),
        ("json.dumps(x, allow_nan=False)", []),
        ("print(json.dumps({'a': json.dumps(b)}, allow_nan=False))", [1]),
        ("json.loads(x)", []),
    ],
)
def test_the_search_finds_calls(source, lines):
    assert writers_of_nan(source) == lines
