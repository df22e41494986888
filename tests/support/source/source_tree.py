# SPDX-License-Identifier: Apache-2.0
"""The repository's own source files, and C++ text without comments and literals."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("runtime", "python", "export", "tests", "jetson")
CPP = (".cc", ".h", ".cu", ".cuh")
PYTHON = (".py", ".pyi")

_RAW_STRING = r'R"(?P<mark>[^()\s\\]*)\(.*?\)(?P=mark)"'
_STRING = r'"(?:\\.|[^"\\\n])*"'
_CHARACTER = r"(?<![0-9a-zA-Z_])'(?:\\[^'\n]+|\\'|[^'\\\n])'"
_COMMENT = r"//[^\n]*|/\*.*?\*/"
_NOT_CODE = re.compile("|".join((_COMMENT, _RAW_STRING, _STRING, _CHARACTER)), re.DOTALL)
_PREPROCESSOR = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)


def source_files(suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Every file of ours with one of `suffixes`, sorted."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and path.is_file() and "__pycache__" not in path.parts:
                yield path


def relative(path: Path) -> str:
    """`path` as seen from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def _blank(match: re.Match[str]) -> str:
    """As many lines as before, so that line numbers stay."""
    text = match.group()
    filler = '""' if text.startswith(('"', "R")) else " "
    return filler + "\n" * text.count("\n")


def cpp_code(text: str) -> str:
    """C++ source without comments, strings and characters; lines keep their numbers."""
    return _NOT_CODE.sub(_blank, text)


def without_preprocessor(code: str) -> str:
    """`code` without `#` lines and their continuations; lines keep their numbers."""
    return _PREPROCESSOR.sub(_blank, code)
