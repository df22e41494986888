# SPDX-License-Identifier: Apache-2.0
"""Files and functions stay small enough to be read in one go."""

import ast

from support.source.cpp_functions import function_lengths
from support.source.source_tree import CPP, PYTHON, relative, source_files

AIM = {"cpp": 300, "python": 200}
LIMIT = {"cpp": 500, "python": 350}
FUNCTION_LIMIT = 70


def python_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1, node.name


def file_lengths():
    for kind, suffixes in (("cpp", CPP), ("python", PYTHON)):
        for path in source_files(suffixes):
            yield kind, relative(path), len(path.read_text().splitlines())


def test_files_are_within_the_limit(capsys):
    lengths = list(file_lengths())
    assert lengths
    over_aim = [f"  {n:4} {path}" for kind, path, n in lengths if n > AIM[kind]]
    if over_aim:
        with capsys.disabled():
            print("\nlonger than the aim:", *over_aim, sep="\n")
    too_long = [
        f"{path}: {n} > {LIMIT[kind]} lines" for kind, path, n in lengths if n > LIMIT[kind]
    ]
    assert not too_long, "\n".join(too_long)


def test_functions_are_within_the_limit():
    too_long = []
    for suffixes, functions in ((CPP, function_lengths), (PYTHON, python_functions)):
        for path in source_files(suffixes):
            for line, lines, name in functions(path.read_text()):
                if lines > FUNCTION_LIMIT:
                    too_long.append(f"{relative(path)}:{line}: {lines} lines: {name}")
    assert not too_long, "\n".join(too_long)


SAMPLE = """\
#define LOOP(x) \\
  do { x; \\
  } while (false)
namespace a {
struct S final : T {
  S() : n_{1}, m_(2) {
    if (n_) { LOOP(f()); }
  }
  // a brace in a comment {
  int f() const noexcept { return '{' + "{"[0] + 1'000; }
  int n_ = 0;
 private:
  struct Inner { int x; };
};
enum class E : uint8_t { kA, kB };
constexpr int kTable[] = {
  1, 2,
};
template <class T>
T g(T x)
{
  auto h = [] { return 1; };
  return x;
}
}  // namespace a
NB_MODULE(_core, m) {
  bind(m);
}
"""


def test_the_brace_counter_itself():
    lengths = [(first, lines) for first, lines, _ in function_lengths(SAMPLE) if lines > 1]
    assert lengths == [(6, 3), (19, 6), (26, 3)]
    assert any("f() const" in name for _, _, name in function_lengths(SAMPLE))
