# SPDX-License-Identifier: Apache-2.0
"""Where `adapmoe doctor` finds a CUDA toolkit."""

import dataclasses

import pytest

from adapmoe.doctor.cuda import examine_cuda
from adapmoe.doctor.machine import Machine, find_nvcc
from support.machines import MACHINES, build

NVCC = "Cuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0.r13.0/compiler.1_0\n"


@pytest.fixture
def toolkit(tmp_path):
    """The finding on an Orin, with or without files in /usr/local/cuda."""

    def look(nvcc, output, *, installed):
        files = MACHINES["orin_jetpack_6_2"]()
        if not installed:
            del files["usr/local/cuda/version.json"]
        machine = dataclasses.replace(
            Machine.at(build(tmp_path, files)),
            nvcc=lambda: nvcc,
            run=lambda words: output if list(words) == [nvcc, "--version"] else None,
        )
        (finding,) = [f for f in examine_cuda(machine, None) if f.topic == "cuda_toolkit"]
        return finding.status, finding.seen

    return look


@pytest.mark.parametrize("installed", [True, False])
def test_the_compiler_of_the_environment_comes_first(toolkit, installed):
    found = toolkit("/opt/cuda/bin/nvcc", NVCC, installed=installed)
    assert found == ("ok", "CUDA 13.0.88: /opt/cuda/bin/nvcc")


NO_COMPILER = pytest.mark.parametrize(
    ("nvcc", "output"), [(None, None), ("/gone/nvcc", None), ("/bin/cc", "?")]
)


@NO_COMPILER
def test_without_one_the_usual_folder_counts(toolkit, nvcc, output):
    assert toolkit(nvcc, output, installed=True) == ("ok", "CUDA 12.6.11 in /usr/local/cuda")


@NO_COMPILER
def test_without_either_there_is_a_remedy(toolkit, nvcc, output):
    status, seen = toolkit(nvcc, output, installed=False)
    assert status == "note"
    assert "CUDACXX" in seen


def test_cudacxx_goes_before_the_path(tmp_path, monkeypatch):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDACXX", raising=False)
    assert find_nvcc() == str(nvcc)
    monkeypatch.setenv("CUDACXX", "/opt/cuda/bin/nvcc")
    assert find_nvcc() == "/opt/cuda/bin/nvcc"
    monkeypatch.delenv("CUDACXX")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert find_nvcc() is None
