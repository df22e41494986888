# SPDX-License-Identifier: Apache-2.0
"""Function lengths of a C++ file, by counting braces."""

import re
from collections.abc import Iterator

from support.source.source_tree import cpp_code, without_preprocessor

_TEMPLATE = re.compile(r"template\s*<[^{};]*?>\s*(?=[a-zA-Z_])")
_CONTAINER = re.compile(
    r"^(?:inline\s+|typedef\s+|static\s+)*(namespace|class|struct|union|enum)\b"
)
_LINKAGE = re.compile(r'^extern\s*""$')


def _opens_container(header: str) -> bool:
    header = re.sub(r"\b(public|private|protected)\s*:", "", header)
    header = _TEMPLATE.sub("", header).strip()
    if _LINKAGE.match(header):
        return True
    return bool(_CONTAINER.match(header)) and not header.endswith(")")


def function_lengths(text: str) -> Iterator[tuple[int, int, str]]:
    """(first line, lines, first words) of every outermost block that is no namespace or type."""
    code = without_preprocessor(cpp_code(text))
    header_start, depth, containers, line, first_line, name = 0, 0, 0, 1, 1, ""
    for position, character in enumerate(code):
        if character == "\n":
            line += 1
        elif character == "{":
            header = code[header_start:position]
            if depth == containers:
                if _opens_container(header.strip()):
                    containers += 1
                else:
                    blank_lines = len(header) - len(header.lstrip())
                    first_line = line - header[blank_lines:].count("\n")
                    name = " ".join(header.split())[-60:]
            depth += 1
            header_start = position + 1 if depth == containers else header_start
        elif character == "}":
            depth -= 1
            if depth < containers:
                containers -= 1
            elif depth == containers and not name.endswith("="):
                yield first_line, line - first_line + 1, name
            if depth == containers:
                header_start = position + 1
        elif character == ";" and depth == containers:
            header_start = position + 1
