# SPDX-License-Identifier: Apache-2.0
"""The GPU backend gives the CPU's bits: its kernels run on the CPU, each thread a fiber.

The emulation queues kernels and runs them when the host waits, so a result that the host reads too
early, or an input that it reuses too early, shows as other logits.
"""

import pytest

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
    assert int(gpu["bytes_read"]) > 0


def test_the_same_logits_across_blocks_of_positions_and_slices_of_rows(pack_factory):
    """150 positions are two blocks of attention; 150 rows are more than an expert takes at once."""
    pack = pack_factory(experts="int4", dense="int4")
    cpu, gpu = both(pack, [(7 * i + 3) % 1000 for i in range(150)], "-n", 1)
    assert gpu["logits"] == cpu["logits"]


def test_without_gpu_kernels_cuda_is_refused_and_auto_is_the_cpu(pack_factory):
    done = run(tool("tokens"), pack_factory(), 1, "--backend", "cuda")
    assert done.returncode == 1
    assert 'backend="cuda"' in done.stderr
    assert token_report(pack_factory(), 1, "-n", 1)["backend"].startswith("cpu/")
