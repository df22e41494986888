# SPDX-License-Identifier: Apache-2.0
"""Who may include whom in runtime/, and where the outside world may be touched."""

import re

import pytest

from support.build.tidy import needs
from support.source.source_tree import CPP, cpp_code, relative, source_files

# An arrow is "may include"; arrows are transitive.
ARROWS = {
    "bindings": {"engine"},
    "tools": {"engine"},
    "engine": {"model"},
    "model": {"gate", "prefetch", "residency", "backend"},
    "prefetch": {"residency"},
    "residency": {"store", "memory"},
    "gate": {"base"},
    "store": {"io"},
    "backend": {"memory"},
    "io": {"base"},
    "memory": {"base"},
    "base": set(),
}
# A single header reached across the arrows.
EXCEPTIONS = {"gate": {"runtime/residency/residency_view.h"}}

# Header pattern -> the only places that may include it.
VENDOR_HEADERS = {
    r"(cuda|cublas|cudnn)\w*\.h|cuda/.*|cub/.*": (
        "runtime/backend/cuda/",
        "runtime/backend/tensorrt/",
        "runtime/memory/unified_arena.",
        "tests/cuda_emulation/",
        "tests/tensorrt_emulation/",
    ),
    r"NvInfer.*|NvOnnx.*": ("runtime/backend/tensorrt/",),
    r"liburing.*": ("runtime/io/uring_ring.cc",),
    r"nanobind/.*|Python\.h": ("runtime/bindings/", "tests/cpp/"),
    r"nlohmann/.*": ("runtime/store/",),
    r"\w*intrin\.h|arm_\w+\.h": (
        "runtime/backend/cpu/",
        "runtime/base/crc32c.cc",
        "runtime/base/sha256.cc",
        "runtime/base/fp_environment.h",
    ),
}
# Headers that show a vendor's types: for their own folder's .cc files only.
PRIVATE_HEADERS = {"runtime/store/json_fields.h"}

# The process belongs to the caller: no environment, no exit, no output of our own. The programs of
# runtime/tools are callers.
FORBIDDEN_CALLS = re.compile(
    r"(?<![.>\w])(?:std::)?(getenv|secure_getenv|exit|_exit|quick_exit|abort|v?f?printf|f?puts|putchar)"
    r"\s*\(|\bstd::(?:cout|cerr|clog)\b"
)
MAY_CALL = ("runtime/base/log.cc", "runtime/base/check.h", "runtime/tools/")

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)


def reachable(folder: str) -> set[str]:
    found = {folder}
    for target in ARROWS[folder]:
        found |= reachable(target)
    return found


def include_problems(path: str, text: str) -> list[str]:
    """What is wrong with the includes of runtime file `path`."""
    parts = path.split("/")
    folder = parts[1]
    allowed = reachable(folder)
    problems = []
    for bracket, header in INCLUDE.findall(text):
        if bracket == "<":
            continue
        target = header.split("/")
        if target[0] != "runtime" or len(target) < 3:
            problems.append(f"{path}: {header!r} is not written from the repository's root")
        elif target[1] not in allowed and header not in EXCEPTIONS.get(folder, set()):
            problems.append(f"{path}: {folder} may not include {header}")
        elif folder == target[1] == "backend" and len(target) > 3 and parts[2] != target[2]:
            problems.append(f"{path}: one backend may not include another's {header}")
    return problems


def vendor_problems(path: str, text: str) -> list[str]:
    problems = []
    for _, header in INCLUDE.findall(text):
        for pattern, places in VENDOR_HEADERS.items():
            if re.fullmatch(pattern, header) and not path.startswith(places):
                problems.append(f"{path}: <{header}> belongs in {', '.join(places)} only")
        if header in PRIVATE_HEADERS and path.rpartition("/")[0] != header.rpartition("/")[0]:
            problems.append(f"{path}: {header} is private to its folder")
        if header in PRIVATE_HEADERS and not path.endswith(".cc"):
            problems.append(f"{path}: {header} belongs in a .cc, not in a header")
    return problems


def call_problems(path: str, text: str) -> list[str]:
    code = cpp_code(text)
    return [
        f"{path}:{code.count(chr(10), 0, match.start()) + 1}: {match.group().strip(' (')} is for "
        "base/log.cc and base/check.h"
        for match in FORBIDDEN_CALLS.finditer(code)
    ]


def runtime_files():
    files = [path for path in source_files(CPP) if relative(path).startswith("runtime/")]
    assert files
    return files


def test_every_runtime_folder_is_in_the_table():
    folders = {relative(path).split("/")[1] for path in runtime_files()}
    assert folders <= set(ARROWS)


def test_includes_follow_the_arrows():
    problems = []
    for path in runtime_files():
        problems += include_problems(relative(path), path.read_text())
    assert not problems, "\n".join(problems)


def test_vendor_headers_stay_in_their_places():
    problems = []
    for path in source_files(CPP):
        problems += vendor_problems(relative(path), path.read_text())
    assert not problems, "\n".join(problems)


def test_only_the_log_and_the_check_reach_outside():
    problems = []
    for path in runtime_files():
        if not relative(path).startswith(MAY_CALL):
            problems += call_problems(relative(path), path.read_text())
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("path", "header", "accepted"),
    [
        ("runtime/model/moe_layer.cc", "runtime/store/pack.h", True),
        ("runtime/gate/top_k.cc", "runtime/residency/residency_view.h", True),
        ("runtime/gate/top_k.cc", "runtime/residency/expert_cache.h", False),
        ("runtime/gate/top_k.cc", "runtime/base/status.h", True),
        ("runtime/backend/cpu/cpu_backend.cc", "runtime/residency/expert_handle.h", False),
        ("runtime/backend/cpu/cpu_backend.cc", "runtime/backend/backend.h", True),
        ("runtime/backend/cpu/cpu_backend.cc", "runtime/backend/cuda/kernels.h", False),
        ("runtime/io/file.cc", "runtime/memory/arena.h", False),
        ("runtime/io/file.cc", "file.h", False),
    ],
)
def test_the_arrow_rule_itself(path, header, accepted):
    assert (include_problems(path, f'#include "{header}"\n') == []) is accepted


@pytest.mark.parametrize(
    ("code", "accepted"),
    [
        ("std::snprintf(b, n, f);", True),
        ("// exit(1)", True),
        ('x = "printf(";', True),
        ("std::printf(f);", False),
        ("const char* v = getenv(n);", False),
        ("std::exit(1);", False),
        ("pool.exit();", True),
    ],
)
def test_the_call_rule_itself(code, accepted):
    assert (call_problems("runtime/io/file.cc", code) == []) is accepted


def test_the_vendor_rule_itself():
    assert vendor_problems("runtime/engine/session.cc", "#include <nanobind/nanobind.h>\n")
    assert vendor_problems("runtime/engine/session.cc", "#include <nlohmann/json.hpp>\n")
    assert vendor_problems("runtime/model/a.cc", '#include "runtime/store/json_fields.h"\n')
    assert vendor_problems("runtime/store/a.h", '#include "runtime/store/json_fields.h"\n')
    assert not vendor_problems("runtime/store/a.cc", '#include "runtime/store/json_fields.h"\n')
    assert not vendor_problems("runtime/store/manifest.cc", "#include <nlohmann/json.hpp>\n")


FIXED_WIDTH = re.compile(r"\bu?int(?:8|16|32|64)_t\b")
CSTDINT = re.compile(r"#include <(cstdint|stdint\.h)>")


def test_integers_of_fixed_width_come_from_a_header_of_ours():
    """GCC 12's <string> brings them along, GCC 14's does not."""
    wrong = [
        relative(path)
        for path in source_files(CPP)
        if relative(path).startswith("runtime/")
        and FIXED_WIDTH.search(cpp_code(path.read_text()))
        and not any(CSTDINT.search(part.read_text()) for part in needs(path))
    ]
    assert not wrong, "\n".join(wrong)
