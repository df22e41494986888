# SPDX-License-Identifier: Apache-2.0
"""The adapter for TensorRT, compiled with its headers and run against a library made of them.

The library (tests/tensorrt_emulation/mock_nvinfer.cc) has TensorRT's vtables and prints what it is
told; it computes nothing. `make gpu-kernels TENSORRT10_INCLUDE=DIR TENSORRT11_INCLUDE=DIR` names
the headers.
"""

import os
import subprocess
from pathlib import Path

import pytest

from support.source.source_tree import ROOT
from support.source.tools import run
from support.tensorrt.tensorrt_stubs import stubs

pytestmark = pytest.mark.emulated

SOURCES = ROOT / "tests/tensorrt_emulation"
ADAPTER = ROOT / "runtime/backend/tensorrt/adapter/adapter.cc"
EXPERT = "make expert 256 16 5000"
UNMADE = "failed: TensorRT does not take the plan"


def build(source, output, *options):
    command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O1", "-I", ROOT, *options]
    command += [source, "-o", output, "-ldl", "-pthread"]
    subprocess.run([*map(str, command)], check=True)
    return output


@pytest.fixture(scope="module", params=[10, 11])
def programs(request, tmp_path_factory):
    """The driver, the library and the adapter for one major version of TensorRT."""
    name = f"TENSORRT{request.param}_INCLUDE"
    if not os.environ.get(name):
        pytest.skip(f"no headers of TensorRT {request.param}: {name} names no folder")
    include = Path(os.environ[name])
    folder = tmp_path_factory.mktemp(f"tensorrt{request.param}")
    (folder / "stubs.h").write_text(stubs(include))
    system = [word for path in (include, SOURCES / "cuda", folder) for word in ("-isystem", path)]
    shared = ("-shared", "-fPIC", *system)
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")
    return [
        build(SOURCES / "adapter_driver.cc", folder / "driver"),
        build(SOURCES / "mock_nvinfer.cc", folder / f"libnvinfer.so.{request.param}", *shared),
        build(ADAPTER, folder / "adapter.so", *shared, *warnings),
    ]


@pytest.fixture
def drive(programs):
    def lines(*commands, env=None):
        done = run(programs, *commands, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    return lines


def errors(lines):
    return [line for line in lines if line.startswith("failed: ")]


def test_an_engine_is_made_run_and_destroyed_in_order(drive, programs):
    major = programs[1].suffix[1:]
    version, *lines = drive("open", EXPERT, "run 3", "run 16", "destroy")
    assert version.startswith(f"version {major}.")
    assert version.count(".") == 3
    places = ["scratch 0x3000 65536", "address x 0x1000", "address y 0x2000"]
    runs = []
    for rows in (3, 16):
        runs += [places[0], f"shape x {rows}x256", *places[1:], "enqueue 0x4000", "queued"]
    assert lines == [
        "take 5000 aligned 256: at 0",
        "take 512 aligned 0: at 5000",
        "made, scratch 65536, wanted 5512",
        *runs,
        # What the engine holds is given back before the allocator goes.
        "~context",
        "give back 5000",
        "~engine",
        "give back 0",
        "~runtime",
    ]


def test_a_library_of_another_major_version_is_refused(drive):
    (line,) = drive("open", env={"MOCK_MAJOR": "9"})
    assert line.startswith("failed: it is TensorRT 9.")
    assert ", and this adapter is for TensorRT 1" in line


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        ("garbage", f"{UNMADE}: not a plan: garbage"),
        ("expert 128 16 5000", "failed: the plan is not that of an expert of this model"),
        ("expert 256 15 5000", "failed: the plan is not that of an expert of this model"),
    ],
)
def test_what_is_no_plan_of_this_model_is_refused(drive, plan, reason):
    lines = drive("open", f"make {plan}")
    assert errors(lines) == [reason]
    assert lines[-1] == reason
    assert lines[-2] == "~runtime"


def test_an_engine_that_does_not_fit_is_refused(drive):
    assert errors(drive("open", "place 4999", EXPERT)) == [f"{UNMADE}: out of device memory"]
    assert errors(drive("open", "place 5511", EXPERT)) == [
        "failed: TensorRT makes no execution context: out of device memory for the context"
    ]
    assert errors(drive("open", "place 5512", EXPERT, "destroy")) == []


def test_a_run_that_is_refused_says_why_and_the_next_one_runs(drive):
    lines = drive("open", EXPERT, "run 17", "run 1", "destroy")
    assert errors(lines) == [
        "failed: TensorRT does not take the input: the profile has no such shape"
    ]
    assert "queued" in lines


def test_each_thread_gets_its_own_errors(drive):
    assert errors(drive("open", "both meet")) == [
        f"{UNMADE}: not a plan: meet a",
        f"{UNMADE}: not a plan: meet b",
    ]


def test_what_a_thread_of_tensorrt_says_is_told_once(drive):
    assert errors(drive("open", "make thread out", "make thread in", "make garbage")) == [
        f"{UNMADE}; elsewhere: not a plan: thread out",
        f"{UNMADE}; elsewhere: not a plan: thread in",
        f"{UNMADE}: not a plan: garbage",
    ]


def test_a_long_error_is_cut(drive):
    (line,) = errors(drive("open", "make " + "x" * 5000))
    assert line.startswith(f"{UNMADE}: not a plan: xxx")
    assert 1000 < len(line) < 2100


def test_a_host_without_memory_is_an_error_and_no_crash(drive):
    empty = "failed: the host has no memory left"
    assert errors(drive("starving open")) == [empty]
    lines = drive("open", f"starving {EXPERT}", EXPERT, "starving run 17", "run 1", "destroy")
    assert errors(lines) == [
        empty,
        "failed: TensorRT does not take the input: the profile has no such shape",
    ]
    assert lines[-6] == "queued"
