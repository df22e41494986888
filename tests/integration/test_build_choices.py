# SPDX-License-Identifier: Apache-2.0
"""What CMake makes of its options, and which nvcc it takes: the one that others report."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adapmoe.doctor.build import find_nvcc
from adapmoe.doctor.machine import Machine
from support.machine.machines import build, nvcc_script
from support.source.source_tree import ROOT

TOOLS = str(Path(sys.executable).parent)
CMAKE = shutil.which("cmake", path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(CMAKE is None, reason="no cmake")


def cmake(*words, path=None, cudacxx=""):
    """`path`: the PATH instead of this process's."""
    env = {**os.environ, "CUDACXX": cudacxx, "PATH": str(path or os.environ["PATH"])}
    words = [CMAKE, *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=env)


def configure(folder, *definitions, **environment):
    options = [f"-D{definition}" for definition in definitions]
    python = f"-DPython_EXECUTABLE={sys.executable}"
    return cmake("-S", ROOT, "-B", folder, python, "-DADAPMOE_PYTHON=OFF", *options, **environment)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("ADAPMOE_CUDA=maybe", "expected one of AUTO, ON, OFF, EMULATED"),
        ("ADAPMOE_URING=1", "expected one of AUTO, ON, OFF"),
        ("ADAPMOE_TENSORRT=on", "expected one of AUTO, ON, OFF"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(tmp_path, choice, words):
    done = configure(tmp_path, "ADAPMOE_CUDA=OFF", choice)
    assert done.returncode == 1
    assert f"{choice}: {words}" in done.stderr


def test_what_is_left_out_is_printed(tmp_path):
    done = configure(tmp_path, "ADAPMOE_URING=OFF", "ADAPMOE_CUDA=OFF")
    assert done.returncode == 0, done.stderr
    assert "AdapMoE: no GPU kernels (ADAPMOE_CUDA=OFF)" in done.stdout
    assert "AdapMoE: no TensorRT adapters (ADAPMOE_TENSORRT=AUTO) needs GPU kernels" in done.stdout
    assert "AdapMoE: no io_uring (ADAPMOE_URING=OFF)" in done.stdout
    lines = (tmp_path / "parts.txt").read_text().splitlines()
    assert len(lines) == 3
    assert all(f"-- {line}\n" in done.stdout for line in lines)


@pytest.mark.parametrize("unity", ["ON", "OFF"])
def test_the_files_of_a_folder_are_compiled_as_one_unless_told_otherwise(tmp_path, unity):
    done = configure(tmp_path, f"ADAPMOE_UNITY={unity}", "ADAPMOE_CUDA=OFF")
    assert done.returncode == 0, done.stderr
    database = json.loads((tmp_path / "compile_commands.json").read_text())
    files = {Path(entry["file"]) for entry in database}
    gate = set((ROOT / "runtime/gate").glob("*.cc"))
    assert (gate <= files) == (unity == "OFF")
    kernels = {path.name for path in files if path.name.startswith("kernels_")}
    assert "kernels_scalar.cc" in kernels  # always alone: its flags are its own


def test_a_compiler_that_is_not_there_is_named(tmp_path):
    done = configure(tmp_path, "ADAPMOE_CUDA=AUTO", cudacxx="/gone/nvcc")
    assert done.returncode == 0, done.stderr
    assert "no GPU kernels (ADAPMOE_CUDA=AUTO) /gone/nvcc cannot compile" in done.stdout


@pytest.fixture
def nvcc_of(tmp_path):
    """The compilers that CMake, doctor and check_device.sh take below a root with these files."""

    def look(*files):
        root = build(tmp_path / "root", {path: nvcc_script("13.0.88") for path in files})
        local = root / "usr/local"
        script = ROOT / "tests/support/build/check_nvcc.cmake"
        by_cmake = cmake("-D", f"local={local}", "-P", script, path=tmp_path).stdout.strip()
        machine = Machine.at(root)
        by_doctor = find_nvcc(machine)
        words = ["sh", ROOT / "jetson/check_device.sh"]
        env = {**os.environ, "ADAPMOE_ROOT": str(root)}
        report = subprocess.run(words, env=env, capture_output=True, text=True).stdout
        (cuda,) = [line.split() for line in report.splitlines() if line[9:14] == "cuda "]
        by_script = cuda[-1] if cuda[0] == "ok" else None
        assert by_cmake == (f"{root}{by_doctor}" if by_doctor else "")
        assert by_script == by_doctor
        return by_doctor

    return look


def test_all_take_the_same_compiler(nvcc_of):
    assert nvcc_of() is None
    assert nvcc_of("usr/local/cuda-9.2/bin/nvcc") == "/usr/local/cuda-9.2/bin/nvcc"
    assert nvcc_of("usr/local/cuda-12.6/bin/nvcc") == "/usr/local/cuda-12.6/bin/nvcc"
    assert nvcc_of("usr/local/cuda-12.10/bin/nvcc") == "/usr/local/cuda-12.10/bin/nvcc"
    assert nvcc_of("usr/local/cuda/bin/nvcc") == "/usr/local/cuda/bin/nvcc"


def test_the_environment_goes_first(tmp_path):
    build(tmp_path, {"bin/nvcc": nvcc_script("12.6.68"), "cuda/bin/nvcc": nvcc_script("13.0.88")})
    find = ("-D", f"local={tmp_path}", "-P", ROOT / "tests/support/build/check_nvcc.cmake")
    assert cmake(*find, path=tmp_path / "bin").stdout.strip() == str(tmp_path / "bin/nvcc")
    named = cmake(*find, path=tmp_path / "bin", cudacxx="/opt/nvcc").stdout.strip()
    assert named == "/opt/nvcc"


def test_a_toolkit_without_its_compiler_is_named(tmp_path):
    (tmp_path / "cuda-12.6").mkdir()
    find = ("-D", f"local={tmp_path}", "-P", ROOT / "tests/support/build/check_nvcc.cmake")
    done = cmake(*find, path=tmp_path)
    assert done.returncode == 1
    assert "cuda-12.6 has no bin/nvcc" in " ".join(done.stderr.split())


def test_configure_prints_what_concerns_us_and_every_error(tmp_path):
    fake = tmp_path / "cmake"
    script = "echo '-- Detecting'; echo '-- AdapMoE: no io_uring'; echo wrong >&2; exit $1"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    for code in (0, 1):
        words = [ROOT / "tests/support/build/configure.sh", fake, str(code)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (code, "AdapMoE: no io_uring\n")
        assert done.stderr == "wrong\n"


@pytest.mark.network
@pytest.mark.slow
def test_a_compiler_comes_from_pypi(tmp_path):
    fetch = ROOT / "tests/support/build/fetch_nvcc.sh"
    words = [fetch, sys.executable, tmp_path / "nvcc"]
    fetched = subprocess.run(words, capture_output=True, text=True, timeout=600)
    if "No matching distribution" in fetched.stderr:
        pytest.skip("PyPI cannot be reached, or has no nvcc for this machine")
    assert fetched.returncode == 0, fetched.stderr
    nvcc = fetched.stdout.strip()
    done = configure(tmp_path / "build", "ADAPMOE_CUDA=ON", cudacxx=nvcc)
    assert done.returncode == 0, done.stderr
    assert "AdapMoE: GPU kernels for sm 80-real 86-real 87-real" in done.stdout
