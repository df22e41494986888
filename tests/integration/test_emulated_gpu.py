# SPDX-License-Identifier: Apache-2.0
"""The GPU backend gives the CPU's bits: its kernels run on the CPU, each thread a fiber.

The emulation queues kernels and runs them when the host waits, so a result that the host reads too
early, or an input that it reuses too early, shows as other logits.
"""

import shutil

import pytest

from adapmoe_export import export_pack
from support.checkpoints import make_config, make_tensors, write_checkpoint
from support.tools import run, token_report, tool

pytestmark = pytest.mark.emulated

IDS = [1, 45, 67, 300, 12, 99, 4, 2024, 8, 15, 16, 23, 42]


def both(pack, ids, *options):
    cpu = token_report(pack, *ids, *options, "--backend", "cpu", "--threads", 1, build="emulated")
    gpu = token_report(pack, *ids, *options, "--backend", "cuda", "--threads", 1, build="emulated")
    assert gpu["backend"] == "cuda/sm_00"
    return cpu, gpu


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
def test_the_same_logits(pack_factory, experts, dense, group, kv):
    pack = pack_factory(experts=experts, dense=dense, group_size=group)
    cpu, gpu = both(pack, IDS, "-n", 2, "--kv", kv)
    assert (gpu["tokens"], gpu["logits"]) == (cpu["tokens"], cpu["logits"])


def test_the_same_logits_while_experts_are_read_and_evicted(pack_factory):
    pack = pack_factory(experts="int4", dense="int8", tile_width=64)
    cpu, gpu = both(pack, IDS[:3], "-n", 3, "--memory", 8 << 20)
    assert (gpu["tokens"], gpu["logits"]) == (cpu["tokens"], cpu["logits"])
    assert int(gpu["bytes_read"]) > (pack / "experts.safetensors").stat().st_size / 2


def test_the_same_logits_across_blocks_of_positions(pack_factory):
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
def test_the_same_logits_with_long_rows_and_a_sliding_window(wide_pack, rows):
    cpu, gpu = both(wide_pack, [(5 * i + 1) % 67 for i in range(rows)], "-n", 1)
    assert (gpu["tokens"], gpu["logits"]) == (cpu["tokens"], cpu["logits"])


def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu(pack_factory):
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("this machine has a GPU driver")
    done = run(tool("tokens", build="cuda"), pack_factory(), 1, "--backend", "cuda")
    assert done.returncode == 1
    assert 'backend="cuda": no NVIDIA driver here' in done.stderr
    assert token_report(pack_factory(), 1, "-n", 1, build="cuda")["backend"].startswith("cpu/")
