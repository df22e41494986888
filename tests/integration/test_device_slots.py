# SPDX-License-Identifier: Apache-2.0
"""A GPU with memory of its own: everything it reads lies there, tiles come through staging.

The emulation's device memory faults when the CPU touches it, holds garbage at first, and copies
happen when somebody waits for them. A real GPU runs what needs no such emulation.
"""

import re
import shutil
import subprocess

import numpy as np
import pytest

from support.disk.faults import (
    ERROR,
    FOREVER,
    SHORT_HALF,
    SHORT_SECTOR,
    Shim,
    build_shim,
    make_control,
    overwrite,
    preload,
)
from support.source.source_tree import ROOT
from support.source.tools import run, run_expert, token_report, tool

emulated = pytest.mark.emulated
IDS = [1, 45, 67, 300, 12, 99, 4, 2024, 8, 15, 16, 23, 42]
STRESS = ROOT / "build/emulated/tests/stress/adapmoe_stress"


@pytest.fixture(autouse=True)
def discrete(monkeypatch):
    monkeypatch.setenv("ADAPMOE_EMULATED_GPU", "discrete")


def on(backend, pack, ids, *options, build="emulated"):
    report = token_report(pack, *ids, *options, "--backend", backend, "--threads", 1, build=build)
    assert report["backend"].startswith(backend)
    return report["tokens"], report["logits"]


@emulated
@pytest.mark.parametrize(
    ("experts", "dense", "group", "kv"),
    [
        ("int4", "int8", 32, "f16"),
        ("int4", "int4", 64, "f32"),
        ("int8", "f16", 128, "f16"),
        ("f16", "f32", 32, "f32"),
    ],
)
def test_the_same_logits(pack_factory, experts, dense, group, kv):
    pack = pack_factory(experts=experts, dense=dense, group_size=group)
    options = (IDS, "-n", 2, "--kv", kv)
    assert on("cuda", pack, *options) == on("cpu", pack, *options)


@pytest.mark.parametrize("memory", [8 << 20, 12 << 20])
def test_the_same_logits_while_experts_are_read_and_evicted(pack_factory, gpu_build, memory):
    pack = pack_factory(experts="int4", dense="int8", tile_width=64)
    options = (pack, IDS[:3], "-n", 6, "--memory", memory)
    assert on("cuda", *options, build=gpu_build) == on("cpu", *options, build=gpu_build)


@emulated
def test_the_same_logits_of_a_prompt_in_chunks(pack_factory):
    pack = pack_factory(experts="int4", dense="int4")
    options = ([(7 * i + 3) % 1000 for i in range(150)], "-n", 1)
    assert on("cuda", pack, *options) == on("cpu", pack, *options)


@emulated
def test_one_expert_without_a_session(pack_factory):
    pack = pack_factory(experts="int4", dense="int8", tile_width=64)
    x = np.random.default_rng(0).standard_normal((3, 256), np.float32)
    cpu, gpu = (
        run_expert(pack, 3, 1, x, backend=backend, path="w4a8", build="emulated")
        for backend in ("cpu", "cuda")
    )
    assert np.array_equal(gpu, cpu)


def refusal(pack, *options, build="emulated"):
    done = run(tool("tokens", build=build), pack, 1, "-n", 1, "--backend", "cuda", *options)
    assert done.returncode == 1, done.stdout
    return done.stderr.strip()


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def spoil(shim, tmp_path, monkeypatch):
    """Spoils reads of experts.safetensors in processes started from now on."""

    def spoil(mode, count=FOREVER):
        control = make_control(tmp_path / "control")
        Shim(control).set(mode, count)
        for name, value in preload(shim, control).items():
            monkeypatch.setenv(name, value)

    return spoil


@emulated
def test_reads_that_fail_once_or_come_short_change_nothing(pack_factory, spoil):
    pack = pack_factory(experts="int4", dense="int8", tile_width=64)
    options = (IDS[:3], "-n", 2, "--memory", 8 << 20)
    expected = on("cpu", pack, *options)
    for mode, count in ((ERROR, 1), (SHORT_HALF, FOREVER)):
        spoil(mode, count)
        assert on("cuda", pack, *options) == expected


@emulated
def test_reads_that_fail_are_named(pack_factory, spoil):
    spoil(SHORT_SECTOR)  # the headers, read through the page cache, come whole in the end
    message = refusal(pack_factory())
    assert re.search(
        r"experts.safetensors: cannot read \d+ bytes at .*only 512 bytes came", message
    )


def test_damage_is_found_in_staging(pack_factory, gpu_build, tmp_path):
    pack = shutil.copytree(pack_factory(), tmp_path / "damaged.adapmoe")
    with (pack / "experts.safetensors").open("r+b") as file:
        overwrite(file, None)
    message = refusal(pack, build=gpu_build)
    assert re.search(r"expert \d of layer 0, tile \d at offset \d+: CRC32C is", message)


@emulated
def test_damaged_dense_weights_are_named(pack_factory, tmp_path):
    pack = shutil.copytree(pack_factory(), tmp_path / "damaged.adapmoe")
    with (pack / "dense.safetensors").open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"wrong")
    assert re.search(r"dense.safetensors: tensor \S+ at offset \d+: CRC32C is", refusal(pack))


@emulated
def test_a_failed_copy_is_an_error(pack_factory, monkeypatch):
    monkeypatch.setenv("ADAPMOE_EMULATED_GPU_REFUSES", "copy")
    assert "a copy to the GPU failed" in refusal(pack_factory())


@emulated
def test_a_ceiling_above_the_gpus_memory_is_refused_with_bytes(pack_factory, monkeypatch):
    monkeypatch.setenv("ADAPMOE_EMULATED_GPU_MEMORY", str(8 << 20))
    message = refusal(pack_factory(), "--memory", 12 << 20)
    assert re.search(
        r"memory of 11\.\d+ MiB \(\d+ bytes\) is more than the GPU has free: 8\.00 MiB", message
    )
    assert "below the floor" in refusal(pack_factory(), "--memory", 1 << 20)


@emulated
def test_memory_that_the_gpu_does_not_give_is_named(pack_factory, monkeypatch):
    monkeypatch.setenv("ADAPMOE_EMULATED_GPU_REFUSES", "malloc")
    assert "the GPU cannot give" in refusal(pack_factory())


@emulated
def test_auto_does_not_take_it(pack_factory):
    done = run(tool("tokens", build="emulated"), pack_factory(), 1, "-n", 1)
    assert done.stdout.startswith("backend cpu/")
    assert "has memory of its own" in done.stderr


@emulated
def test_without_a_gpu_auto_says_nothing(pack_factory, monkeypatch):
    monkeypatch.setenv("ADAPMOE_EMULATED_GPU", "none")
    done = run(tool("tokens", build="emulated"), pack_factory(), 1, "-n", 1)
    assert done.stdout.startswith("backend cpu/")
    assert done.stderr == ""
    assert "no usable GPU" in refusal(pack_factory())


@emulated
def test_auto_falls_back_where_pages_cannot_be_pinned(pack_factory, monkeypatch):
    monkeypatch.setenv("ADAPMOE_EMULATED_GPU", "integrated")
    monkeypatch.setenv("ADAPMOE_EMULATED_GPU_REFUSES", "register")
    done = run(tool("tokens", build="emulated"), pack_factory(), 1, "-n", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("backend cpu/")
    (note,) = done.stderr.splitlines()
    assert "CUDA cannot map" in note
    assert "running on cpu/" in note
    assert "CUDA cannot map" in refusal(pack_factory())


@emulated
@pytest.mark.parametrize("kind", ["discrete", "integrated"])
def test_sessions_at_random(pack_factory, monkeypatch, kind):
    """Threads, forks, cancelled steps and moving ceilings, with the CPU's logits."""
    if not STRESS.exists():
        pytest.skip("no adapmoe_stress: run `make gpu-kernels`")
    monkeypatch.setenv("ADAPMOE_EMULATED_GPU", kind)
    monkeypatch.setenv("ADAPMOE_EMULATED_RACES", "unwatched")  # for more steps
    pack = pack_factory(experts="int4", dense="int8", tile_width=64)
    command = [STRESS, "--pack", pack, "--backend", "cuda", "--seconds", "5"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no violation" in done.stdout


@emulated
def test_the_emulation_sees_what_a_gpu_would_not_forgive():
    check = ROOT / "build/emulated/tests/cuda_emulation/emulation_check"
    if not check.exists():
        pytest.skip("no emulation_check: run `make gpu-kernels`")
    done = subprocess.run([check], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) > 15
