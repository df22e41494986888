# SPDX-License-Identifier: Apache-2.0
"""The scripts behind `make test` and `make check`: what they count, choose and say."""

import json
import os
import shutil
import stat
import subprocess
import sys

import pytest

from support.build import run_parts, tidy
from support.source.source_tree import ROOT

MAKE = """#!/bin/sh
case "$2" in
  good) echo '3 passed, 1 skipped in 0.02s'; echo '== 2 passed, 5 deselected in 1.2s ==' ;;
  bad) echo '1 failed, 2 passed, 1 error in 0.30s'; exit 2 ;;
  broken) echo 'no rule'; exit 2 ;;
  lacking) echo 'lacking: skipped, no clang here' ;;
esac
"""


@pytest.fixture
def parts(tmp_path, monkeypatch, capsys):
    """Run parts with a make of our own; (exit code, lines printed)."""
    script = tmp_path / "bin/make"
    script.parent.mkdir()
    script.write_text(MAKE)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(run_parts, "RECORDS", tmp_path / "records")

    def run(*words):
        code = run_parts.main(list(words))
        return code, capsys.readouterr().out.splitlines()

    return run


def test_the_table_names_every_part_and_the_last_line_counts_tests(parts):
    code, lines = parts("test", "good", "lacking")
    assert code == 0
    assert lines[-1] == "5 passed, 0 failed, 1 skipped"
    table = [line.split() for line in lines[-4:-1]]
    assert (table[0][0], table[0][2:]) == ("good", ["6", "passed"])
    assert (table[1][0], table[1][2:]) == ("lacking", ["skipped:", "no", "clang", "here"])
    assert table[2][0] == "all"


def test_a_part_that_fails_ends_the_run_and_is_counted(parts):
    code, lines = parts("test", "bad", "good")
    assert (code, lines[-1]) == (1, "2 passed, 2 failed, 0 skipped")
    code, lines = parts("test", "good", "broken")
    assert (code, lines[-1]) == (1, "5 passed, 1 failed, 1 skipped")


def test_a_report_adds_up_what_was_run(parts):
    parts("test", "good")
    parts("check", "lacking", "good")
    code, lines = parts("--report", "test", "check")
    assert (code, lines[-1]) == (0, "10 passed, 0 failed, 2 skipped")
    assert [line.split()[0] for line in lines[-5:-1]] == ["good", "lacking", "good", "all"]


@pytest.mark.parametrize("line", ["3 passed", "it has passed in 3 s", "1 file in 2s", ""])
def test_other_lines_are_no_summary(line):
    assert run_parts.count_tests(line) == {}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository whose core is two files and two headers, and a function that runs git in it."""
    monkeypatch.setattr(tidy, "ROOT", tmp_path)
    monkeypatch.setattr(tidy, "CONFIG", tmp_path / ".clang-tidy")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # a hook's, of this repository
        monkeypatch.delenv(name, raising=False)

    def git(*words):
        who = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True)

    folder = tmp_path / "runtime/base"
    folder.mkdir(parents=True)
    (tmp_path / ".clang-tidy").write_text("Checks: '*'\n")
    (folder / "low.h").write_text("#pragma once\n")
    (folder / "high.h").write_text('#include "runtime/base/low.h"\n')
    (folder / "one.cc").write_text('#include <map>\n#include "runtime/base/high.h"\n')
    (folder / "two.cc").write_text("int two;\n")
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "first")
    tidy.needs.cache_clear()
    yield git
    tidy.needs.cache_clear()


@pytest.fixture
def run_tidy(repository, tmp_path, monkeypatch, capsys):
    """Run tidy.py with a clang-tidy that finds something where a file says WRONG."""
    fake = tmp_path / "build/clang-tidy"
    fake.parent.mkdir()
    (tmp_path / ".git/info/exclude").write_text("/build/\n")
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit\n'
        'echo "$4" >>"$(dirname "$0")/asked"; ! grep -H WRONG "$4"\n'
    )
    fake.chmod(0o755)
    files = [tmp_path / f"runtime/base/{name}.cc" for name in ("one", "two")]
    database = [{"file": str(path), "command": "cc"} for path in files]
    (fake.parent / "compile_commands.json").write_text(json.dumps(database))

    def run(*words):
        asked = fake.parent / "asked"
        asked.write_text("")
        tidy.needs.cache_clear()
        monkeypatch.setattr(sys, "argv", ["tidy.py", str(fake), str(fake.parent), *words])
        code = tidy.main()
        names = [line.rpartition("/")[2] for line in asked.read_text().splitlines()]
        return code, sorted(names), capsys.readouterr().out

    return run


def test_a_file_is_looked_at_once_per_content(run_tidy, tmp_path):
    assert run_tidy()[:2] == (0, ["one.cc", "two.cc"])
    assert run_tidy()[:2] == (0, [])
    (tmp_path / "runtime/base/low.h").write_text("#pragma once\nint more;\n")
    assert run_tidy()[:2] == (0, ["one.cc"])  # through high.h
    (tmp_path / ".clang-tidy").write_text("Checks: '-*'\n")
    assert run_tidy()[:2] == (0, ["one.cc", "two.cc"])


def test_a_finding_is_printed_each_time(run_tidy, tmp_path):
    (tmp_path / "runtime/base/two.cc").write_text("int WRONG;\n")
    for _ in range(2):
        code, names, out = run_tidy()
        assert code == 1
        assert "two.cc" in names
        assert "int WRONG;" in out


def test_only_what_differs_from_main_is_looked_at_where_that_is_asked(
    run_tidy, repository, tmp_path
):
    assert run_tidy("--changed")[:2] == (0, [])
    repository("checkout", "-qb", "work")
    (tmp_path / "runtime/base/low.h").write_text("#pragma once\nint more;\n")
    assert run_tidy("--changed")[:2] == (0, ["one.cc"])
    repository("commit", "-qam", "second")
    (tmp_path / "runtime/base/two.cc").write_text("int WRONG;\n")
    assert run_tidy("--changed")[:2] == (1, ["two.cc"])
    repository("branch", "-D", "main")
    shutil.rmtree(tmp_path / "build/tidy")
    assert run_tidy("--changed")[:2] == (1, ["one.cc", "two.cc"])  # no branch to compare with


@pytest.mark.parametrize(
    ("device", "there"), [("nvidia0", 0), ("nvhost-gpu", 0), ("nvgpu", 0), ("null", 1)]
)
def test_a_gpu_is_a_device_file_and_no_compiler(tmp_path, device, there):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / device).touch()
    words = [ROOT / "tests/support/build/check_gpu.sh", sys.executable]
    env = {**os.environ, "ADAPMOE_ROOT": str(tmp_path)}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (there, "no NVIDIA GPU here\n" if there else "")


@pytest.mark.parametrize(
    ("device", "asked", "taken"),
    [("nvgpu", [], "AUTO"), ("null", [], "OFF"), ("null", ["CUDA=ON"], "ON")],
)
def test_the_demo_is_compiled_for_a_gpu_where_one_is_or_where_asked(tmp_path, device, asked, taken):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / device).touch()
    words = ["make", "-s", "--eval=show: ; @echo $(CUDA)", "show", *asked]
    env = {**os.environ, "ADAPMOE_ROOT": str(tmp_path)}
    env.pop("MAKEFLAGS", None)
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout == f"{taken}\n", done.stderr
