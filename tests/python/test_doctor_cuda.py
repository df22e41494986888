# SPDX-License-Identifier: Apache-2.0
"""Where `adapmoe doctor` finds a CUDA toolkit."""

import dataclasses

import pytest

from adapmoe.doctor.gpu import examine_cuda
from adapmoe.doctor.machine import Machine, nvcc_of_environment
from support.machine.machines import MACHINES, build, nvcc_script, runner

LOCAL = "usr/local/cuda"


@pytest.fixture
def toolkit(tmp_path):
    """The finding on an Orin with `files` below /usr/local, and nvcc where the environment says."""

    def look(files, nvcc=None):
        machine = MACHINES["orin_jetpack_6_2"]()
        bare = {path: text for path, text in machine.items() if not path.startswith(LOCAL)}
        root = build(tmp_path, {**bare, **files})
        seen = dataclasses.replace(Machine.at(root), nvcc=lambda: nvcc, run=runner(root))
        (finding,) = [f for f in examine_cuda(seen, None) if f.topic == "cuda_toolkit"]
        assert finding.remedy or finding.status == "ok"
        return finding.status, finding.seen

    return look


def test_the_compiler_of_the_environment_comes_first(toolkit):
    files = {
        "opt/cuda/bin/nvcc": nvcc_script("13.0.88"),
        f"{LOCAL}/bin/nvcc": nvcc_script("12.6.68"),
    }
    found = toolkit(files, nvcc="/opt/cuda/bin/nvcc")
    assert found == ("ok", "CUDA 13.0.88: /opt/cuda/bin/nvcc")


def test_then_the_usual_folder_then_the_newest_version(toolkit):
    files = {
        f"{LOCAL}-{name}/bin/nvcc": nvcc_script(f"{name}.1") for name in ("9.2", "12.6", "12.10")
    }
    assert toolkit(files) == ("ok", "CUDA 12.10.1: /usr/local/cuda-12.10/bin/nvcc")
    files[f"{LOCAL}/bin/nvcc"] = nvcc_script("12.6.1")
    assert toolkit(files) == ("ok", "CUDA 12.6.1: /usr/local/cuda/bin/nvcc")


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho '?'\n"])
def test_what_a_build_would_take_in_vain_is_named(toolkit, script):
    files = {"opt/nvcc": script, f"{LOCAL}/bin/nvcc": nvcc_script("12.6.68")}
    assert toolkit(files, nvcc="/opt/nvcc") == ("note", "/opt/nvcc does not answer")
    assert toolkit(files, nvcc="/gone/nvcc") == ("note", "/gone/nvcc does not answer")


@pytest.mark.parametrize("folder", [LOCAL, f"{LOCAL}-12.6"])
def test_a_toolkit_without_its_compiler_is_named(toolkit, folder):
    status, seen = toolkit({f"{folder}/version.json": '{"cuda": {"version": "12.6.11"}}'})
    assert (status, seen) == ("note", f"/{folder} (CUDA 12.6.11) has no bin/nvcc")


def test_without_any_there_is_a_remedy(toolkit):
    status, seen = toolkit({})
    assert status == "note"
    assert "CUDACXX" in seen


def test_cudacxx_goes_before_the_path(tmp_path, monkeypatch):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDACXX", raising=False)
    assert nvcc_of_environment() == str(nvcc)
    monkeypatch.setenv("CUDACXX", "/opt/cuda/bin/nvcc")
    assert nvcc_of_environment() == "/opt/cuda/bin/nvcc"
    monkeypatch.delenv("CUDACXX")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert nvcc_of_environment() is None
