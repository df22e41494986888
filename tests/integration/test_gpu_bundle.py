# SPDX-License-Identifier: Apache-2.0
"""What `make gpu-bundle` packs, and the table that its run ends with; no GPU needed."""

import re
import shutil
import subprocess
import sys
import tarfile

import pytest
from gpu_bundle import bundle, run

from support.source.source_tree import ROOT, relative, source_files

REPORT = """<testsuites><testsuite>
<testcase classname="tests.integration.test_gpu" name="test_logits[int4]" time="1.5"/>
<testcase classname="tests.integration.test_gpu" name="test_bits" time="2"><failure/></testcase>
<testcase classname="tests.integration.test_gpu" name="test_setup" time="0"><error/></testcase>
<testcase classname="tests.integration.test_gpu" name="test_left" time="0"><skipped/></testcase>
</testsuite></testsuites>"""


def names_of(array):
    """The packages that an array of pyproject.toml names."""
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(rf"^{array} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL).group(1)
    return {re.split(r"[<>=~;]", name)[0] for name in re.findall(r'"([^"]+)"', block)}


def test_it_brings_what_the_package_and_the_exporter_need():
    there = {"numpy", "cmake", "ninja"}
    needed = names_of("dependencies") | names_of("export") | {"nanobind", "nlohmann-json"}
    assert needed - there <= names_of("gpu-bundle")


def test_it_runs_every_test_that_uses_a_gpu():
    users = {
        relative(path)
        for path in source_files((".py",))
        if path.name.startswith("test_")
        and re.search(r"\bgpu_build\b|mark\.gpu\b", path.read_text())
    }
    outside = {name for name in users if not name.startswith(f"{run.TESTS}/")}
    assert outside == {"tests/export/test_tensorrt_rtx.py"}
    assert len(users) > len(outside)


def test_a_row_per_test(tmp_path, capsys):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    rows = run.rows_of(report)
    assert run.print_table(rows) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5].split() == ["test_gpu::test_logits[int4]", "passed", "1.5"]
    assert [line.split()[1] for line in lines[-5:-1]] == ["passed", "failed", "failed", "skipped"]
    assert lines[-1] == "1 passed, 2 failed, 1 skipped"


@pytest.mark.parametrize(
    ("results", "code"), [(["passed"], 0), (["skipped"], 1), (["passed", "out of time"], 1)]
)
def test_nothing_checked_is_no_success(results, code, capsys):
    rows = [run.Row("check", result, 0) for result in results]
    assert run.print_table(rows) == code


def test_a_command_ends_with_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    checks = run.Run(minutes=0)
    sleep = "import time; print('begun', flush=True); time.sleep(60)"
    assert checks.check("sleep", sys.executable, "-c", sleep) is None
    assert (checks.rows[0].check, checks.rows[0].result) == ("sleep", "out of time")


@pytest.mark.parametrize(("answer", "named"), [("8.7", "87-real"), (None, "90-real")])
def test_kernels_are_compiled_for_the_gpu_that_is_there(tmp_path, answer, named):
    script = tmp_path / "nvidia-smi"
    if answer is not None:
        script.write_text(f"#!/bin/sh\necho {answer}\n")
        script.chmod(0o755)
    assert run.architecture((str(script),)) == named


@pytest.mark.slow
@pytest.mark.network
def test_the_archive_is_whole_and_small(tmp_path, pack_factory, monkeypatch):
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    out = tmp_path / "bundle.tar.gz"
    words = [sys.executable, "-m", "gpu_bundle.bundle", pack_factory(), "--out", out]
    done = subprocess.run(words, cwd=ROOT / "tests", capture_output=True, text=True)
    if "No matching distribution" in done.stderr:
        pytest.skip("PyPI cannot be reached")
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size < bundle.LIMIT
    with tarfile.open(out) as archive:
        names = {name.removeprefix(f"{bundle.TOP}/") for name in archive.getnames()}
    assert {str(path) for path in bundle.tracked_files()} <= names
    assert f"{bundle.PREPARED}/tiny-mixtral.adapmoe/manifest.json" in names
    wheels = [name.rpartition("/")[2] for name in names if name.endswith(".whl")]
    brought = {name.split("-")[0].lower().replace("_", "-") for name in wheels}
    assert brought == {name.lower().replace("_", "-") for name in names_of("gpu-bundle")}
    fits = re.compile(r"-(py3|py2\.py3|cp312|cp3[0-9]+-abi3)-(.*x86_64|none-any)|-py3-none-any")
    assert all(fits.search(name) for name in wheels), wheels
    outside = [name for name in names if name.startswith(("/", ".."))]
    assert not outside
