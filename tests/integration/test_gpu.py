# SPDX-License-Identifier: Apache-2.0
"""The GPU backend gives the CPU's bits, emulated on the CPU and, with `-m gpu`, on a GPU.

The emulation runs each thread as a fiber. It queues kernels and runs them when the host waits, so a
result that the host reads too early, or an input that it reuses too early, shows as other logits.
"""

import re
import shutil
import subprocess
import sys

import pytest

from adapmoe_export import export_pack
from support.models.checkpoints import make_config, make_tensors, write_checkpoint
from support.source.source_tree import ROOT
from support.source.tools import run, token_report, tool

IDS = [1, 45, 67, 300, 12, 99, 4, 2024, 8, 15, 16, 23, 42]


@pytest.fixture
def both(gpu_build):
    """A function from a pack, ids and options to the reports of CPU and GPU."""

    def reports(pack, ids, *options):
        arguments = (pack, *ids, *options, "--threads", 1)
        cpu = token_report(*arguments, "--backend", "cpu", build=gpu_build)
        gpu = token_report(*arguments, "--backend", "cuda", build=gpu_build)
        assert gpu["backend"].startswith("cuda/sm_")
        assert (gpu["backend"] == "cuda/sm_00") == (gpu_build == "emulated")
        return cpu, gpu

    return reports


def test_every_operator_gives_the_cpu_bits(gpu_build):
    # Emulated with memory of its own, where a forgotten copy shows as well.
    command = tool("operator-check", build=gpu_build)
    done = run(command, "cuda", env={"ADAPMOE_EMULATED_GPU": "discrete"})
    assert done.returncode == 0, done.stdout + done.stderr
    cases = [line.split()[1] for line in done.stdout.splitlines()]
    assert len(cases) == len(set(cases)) >= 43


# One row per step, four at most and more take different kernels: the prompt has 13.
@pytest.mark.parametrize(
    ("experts", "dense", "group", "kv"),
    [
        ("int4", "int8", 32, "f16"),
        ("int4", "int4", 64, "f32"),
        ("int8", "f16", 128, "f16"),
        ("f16", "f32", 32, "f32"),
    ],
)
def test_the_same_logits(both, pack_factory, experts, dense, group, kv):
    pack = pack_factory(experts=experts, dense=dense, group_size=group)
    cpu, gpu = both(pack, IDS, "-n", 2, "--kv", kv)
    assert (gpu["tokens"], gpu["logits"]) == (cpu["tokens"], cpu["logits"])


def test_the_same_logits_while_experts_are_read_and_evicted(both, pack_factory):
    pack = pack_factory(experts="int4", dense="int8", tile_width=64)
    cpu, gpu = both(pack, IDS[:3], "-n", 3, "--memory", 8 << 20)
    assert (gpu["tokens"], gpu["logits"]) == (cpu["tokens"], cpu["logits"])
    assert int(gpu["bytes_read"]) > (pack / "experts.safetensors").stat().st_size / 2


def test_residency_under_the_smallest_budget_and_g1_to_g3(both, pack_factory, gpu_build):
    pack = pack_factory(experts="int4", dense="int8", tile_width=64)
    ids = IDS[:3]
    cpu, resident = both(pack, ids, "-n", 6)
    assert resident["logits"] == cpu["logits"]
    options = (*ids, "-n", 6, "--threads", 1, "--backend", "cuda")
    floor = int(resident["floor_bytes"])
    prefetched = {0: 0, 2: 0}
    for memory in (floor, 2 * floor):
        for prefetch in (0, 2):
            gpu = token_report(
                pack, *options, "--memory", memory, "--prefetch", prefetch, build=gpu_build
            )
            assert (gpu["tokens"], gpu["logits"]) == (cpu["tokens"], cpu["logits"])
            assert int(gpu["expert_hits"]) < int(gpu["experts_used"])  # it did stream
            prefetched[prefetch] += int(gpu["prefetched"])
    assert prefetched[0] == 0
    assert prefetched[2] > 0


def test_the_same_logits_across_blocks_of_positions(both, pack_factory):
    pack = pack_factory(experts="int4", dense="int4")
    cpu, gpu = both(pack, [(7 * i + 3) % 1000 for i in range(150)], "-n", 1)
    assert gpu["logits"] == cpu["logits"]


@pytest.fixture(scope="module")
def wide_pack(tmp_path_factory):
    """Rows longer than one chunk of weights in shared memory, heads no multiple of 16 wide.

    Two experts, so that a prompt of 80 gives each more rows than are computed at once.
    """
    folder = tmp_path_factory.mktemp("wide")
    config = make_config(
        hidden_size=2304,
        intermediate_size=160,
        num_hidden_layers=1,
        head_dim=24,
        num_local_experts=2,
        sliding_window=48,
    )
    checkpoint = write_checkpoint(folder / "checkpoint", config, make_tensors(config))
    export_pack(checkpoint, folder / "pack", experts="int4", dense="int8", group_size=64)
    return folder / "pack"


@pytest.mark.parametrize("rows", [1, 3, 80])
def test_the_same_logits_with_long_rows_and_a_sliding_window(both, wide_pack, rows):
    cpu, gpu = both(wide_pack, [(5 * i + 1) % 67 for i in range(rows)], "-n", 1)
    assert (gpu["tokens"], gpu["logits"]) == (cpu["tokens"], cpu["logits"])


@pytest.mark.emulated
@pytest.mark.parametrize("file", ["adapmoe-tokens", "adapmoe-gpu-bench", "libadapmoe_trt10.so"])
def test_a_build_with_cuda_needs_no_library_of_nvidia(file):
    path = ROOT / "build/cuda/runtime/tools" / file
    if not path.exists():
        pytest.skip(f"no {path.relative_to(ROOT)}: run `make gpu-kernels`")
    needed = run(["objdump", "-p", path]).stdout
    assert "NEEDED" in needed
    assert not re.search(r"libcuda|libcudart|libnvinfer|libnvidia", needed)


@pytest.mark.emulated
def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu(pack_factory):
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("this machine has a GPU driver")
    done = run(tool("tokens", build="cuda"), pack_factory(), 1, "--backend", "cuda")
    assert done.returncode == 1
    assert 'backend="cuda": no NVIDIA driver here' in done.stderr
    assert token_report(pack_factory(), 1, "-n", 1, build="cuda")["backend"].startswith("cpu/")


@pytest.mark.emulated
@pytest.mark.parametrize(("marker", "said"), [("gpu", "1 error"), ("not slow", "1 passed")])
def test_gpu_tests_run_only_when_asked_for_and_then_fail_without_one(marker, said):
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("this machine has a GPU driver")
    name = "tests/integration/test_gpu_speed.py::test_the_time_of_one_expert"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", marker, name],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert said in done.stdout
    assert ("-m gpu needs a CUDA device" in done.stdout) == (marker == "gpu")
