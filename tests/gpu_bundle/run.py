#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds and tests on a GPU machine that reaches no registry; a table of all checks comes last.

Usage: run.py [--minutes M] [--until-device]
Needs what README.md beside this names. Logs and results go to build/gpu-results, or to $OUT.
--until-device ends before the first call of CUDA: for rehearsals where no GPU is.
"""

import argparse
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PREPARED = ROOT / "build/gpu-bundle"
PACK = PREPARED / "tiny-mixtral.adapmoe"
RESULTS = Path(os.environ.get("OUT") or ROOT / "build/gpu-results")
SITE = ROOT / "build/gpu-site"
# Measured alone, after all others.
SPEED = "tests/integration/test_gpu_speed.py"
# All tests that use a GPU but tests/export/test_tensorrt_rtx.py: TensorRT and pycuda are too large
# to bring along.
TESTS = "tests/integration"
PROMPT = ["-p", "The function returns", "-n", "64", "--temperature", "0"]


@dataclass
class Row:
    """One line of the table."""

    check: str
    result: str
    seconds: float


class Run:
    """The checks, one after another, until the time is up."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes
        self.rows: list[Row] = []
        paths = [SITE, ROOT / "python", ROOT / "export", ROOT / "tests", ROOT]
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # of whatever else is installed
        }

    def call(self, name: str, *words: object) -> subprocess.CompletedProcess[str] | None:
        """Run a command with its output in a log; None where it ran out of time."""
        print(f"--- {name}", flush=True)
        left = max(1.0, self.end - time.monotonic())
        log = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.log"
        command = [str(word) for word in words]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=left,
            )
        except subprocess.TimeoutExpired as late:
            log.write_bytes(late.stdout or b"")
            return None
        log.write_text(done.stdout)
        if done.returncode:
            print(done.stdout[-3000:], flush=True)
        return done

    def check(self, name: str, *words: object) -> str | None:
        """One row; the output, None where it failed."""
        begin = time.monotonic()
        done = self.call(name, *words)
        result = "out of time" if done is None else "failed" if done.returncode else "passed"
        self.rows.append(Row(name, result, time.monotonic() - begin))
        return None if done is None or done.returncode else done.stdout

    def tests(self, name: str, *words: str) -> None:
        """A row per test of pytest."""
        report = RESULTS / f"{name}.xml"
        begin = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
        done = self.call(name, *command, f"--junitxml={report}", *words)
        seen = rows_of(report) if report.exists() else []
        self.rows += seen
        if done is None or not seen:
            result = "out of time" if done is None else "failed"
            self.rows.append(Row(name, result, time.monotonic() - begin))


def rows_of(report: Path) -> list[Row]:
    """What pytest says of each test in its JUnit file."""
    rows = []
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        result = "failed" if kinds & {"failure", "error"} else "passed"
        if "skipped" in kinds:
            result = "skipped"
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        rows.append(Row(name, result, float(case.get("time", 0))))
    return rows


def architecture(words: tuple[str, ...] = ("nvidia-smi",)) -> str:
    """What nvcc shall compile for: the GPU here, or Hopper where none answers."""
    query = [*words, "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "90-real"
    return done.stdout.split()[0].replace(".", "") + "-real"


def build(run: Run, folder: Path, jobs: int) -> bool:
    """Everything from one configuration: the Python modules and the tools, with the kernels."""
    wheels = sorted((PREPARED / "wheels").glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
    if run.check("wheels", *pip, "--upgrade", "--target", SITE, *wheels) is None:
        return False
    configure = ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", "-DADAPMOE_CUDA=ON"]
    configure += ["-DADAPMOE_TOOLS=ON", "-DADAPMOE_TESTING=ON"]
    configure += [f"-DCMAKE_CUDA_ARCHITECTURES={architecture()}"]
    if run.check("configure", *configure) is None:
        return False
    if run.check("build", "cmake", "--build", folder, "-j", jobs) is None:
        return False
    for module in folder.glob("_*.so"):
        link = ROOT / "python/adapmoe" / module.name
        link.unlink(missing_ok=True)
        link.symlink_to(module)
    return (
        run.check("import", sys.executable, "-c", "import adapmoe._core, adapmoe._testing")
        is not None
    )


def text_of(run: Run, name: str, backend: str) -> str | None:
    """What the model says on a backend, without what it took (stderr)."""
    command = f'"{sys.executable}" -m adapmoe.cli run "$0" "$@" 2>"$LOG"'
    run.env["LOG"] = str(RESULTS / f"{backend}-run.txt")
    return run.check(name, "bash", "-c", command, PACK, *PROMPT, "--backend", backend)


def compare(run: Run) -> None:
    """The Python package on the GPU says what it says on the CPU."""
    texts = [text_of(run, f"generate, {backend}", backend) for backend in ("cpu", "cuda")]
    same = None not in texts and texts[0] == texts[1]
    run.rows.append(Row("the same text on both", "passed" if same else "failed", 0))


def print_table(rows: list[Row]) -> int:
    """1 if something failed, or nothing was checked."""
    width = max(len(row.check) for row in rows)
    print(f"\n{'check':<{width}}  result       seconds")
    for row in rows:
        print(f"{row.check:<{width}}  {row.result:<11}  {row.seconds:7.1f}")
    counts = {
        kind: sum(row.result == kind for row in rows) for kind in ("passed", "failed", "skipped")
    }
    counts["failed"] += sum(row.result == "out of time" for row in rows)
    print(", ".join(f"{number} {kind}" for kind, number in counts.items()))
    return 1 if counts["failed"] or not counts["passed"] else 0


def main() -> int:
    """0 if all checks passed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--until-device", action="store_true")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    run = Run(options.minutes)
    if build(run, ROOT / "build/cuda", cores):
        run.check("inspect", sys.executable, "-m", "adapmoe.cli", "inspect", PACK)
        run.call("doctor", sys.executable, "-m", "adapmoe.cli", "doctor")  # to read, no check
        if options.until_device:
            pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--collect-only"]
            run.check("collect", *pytest, TESTS)
        else:
            compare(run)
            xdist = ["-p", "xdist.plugin", "-n", str(max(1, cores // 2))]
            run.tests("tests", *xdist, f"--ignore={SPEED}", TESTS)
            run.tests("speed", "-s", SPEED)
    return print_table(run.rows)


if __name__ == "__main__":
    sys.exit(main())
