# SPDX-License-Identifier: Apache-2.0
"""_core.pyi says what the compiled module has: every name, every parameter, every default."""

import ast
import re
from pathlib import Path

import pytest

import adapmoe
from adapmoe import _core

STUB = ast.parse((Path(adapmoe.__file__).parent / "_core.pyi").read_text())


def parameters(function):
    """(name, kind, default) of every parameter but self; the default as source, None without."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = [None] * (len(positional) - len(arguments.defaults))
    found = [
        (a.arg, "positional", default and ast.unparse(default))
        for a, default in zip(positional, [*missing, *arguments.defaults], strict=True)
    ]
    found += [
        (a.arg, "keyword", default and ast.unparse(default))
        for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return [parameter for parameter in found if parameter[0] != "self"]


def compiled_parameters(function):
    ((signature, _, defaults),) = function.__nb_signature__
    signature = re.sub(r"ndarray\[[^][]*\]", "ndarray", signature)  # [dtype=...] is not Python
    # Defaults stand in the signature as \\0, \\1, ...: numbers of what comes separately.
    for number in reversed(range(len(defaults or ()))):
        signature = signature.replace(f"\\{number}", repr(defaults[number]))
    (definition,) = ast.parse(signature + ": ...").body
    return parameters(definition)


def same(stub, compiled):
    """Defaults are compared as values: 0.0 and 0, () and []."""

    def plain(found):
        return [(name, kind, _value(default)) for name, kind, default in found]

    assert plain(stub) == plain(compiled)


def _value(default):
    value = None if default is None else ast.literal_eval(default)
    return list(value) if isinstance(value, tuple) else value


def public(names):
    return {name for name in names if not name.startswith("_")}


def stub_members(definition):
    return {
        node.name if isinstance(node, ast.FunctionDef) else node.target.id: node
        for node in definition.body
        if isinstance(node, ast.FunctionDef | ast.AnnAssign)
    }


CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}


def test_the_same_names_are_public():
    assert public(dir(_core)) == {*CLASSES, *FUNCTIONS}
    assert _core.__version__ == adapmoe.__version__


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_have_the_same_parameters(name):
    same(parameters(FUNCTIONS[name]), compiled_parameters(getattr(_core, name)))


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_classes_have_the_same_members(name):
    members, compiled = stub_members(CLASSES[name]), getattr(_core, name)
    assert public(members) == public(dir(compiled))
    for member, node in members.items():
        found = getattr(compiled, member)
        is_method = isinstance(node, ast.FunctionDef) and not node.decorator_list
        assert is_method == callable(found), member
        if is_method:
            same(parameters(node), compiled_parameters(found))


def test_the_stub_describes_every_setting_of_a_session():
    documented = ast.get_docstring(stub_members(CLASSES["Session"])["__init__"])
    assert re.findall(r"^(\w+): ", documented, re.M) == list(_core.session_settings())


def test_every_stub_function_says_what_it_returns():
    for node in ast.walk(STUB):
        if isinstance(node, ast.FunctionDef):
            assert node.returns is not None, node.name
