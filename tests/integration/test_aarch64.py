# SPDX-License-Identifier: Apache-2.0
"""The core on 64-bit Arm, emulated, gives the bits that it gives here."""

import pytest

from support.source.tools import kernel_digests, run, token_report, tool

pytestmark = pytest.mark.aarch64

# qemu's name of a CPU -> the tables that it can run. A Cortex-A76 has the dot products that Orin's
# A78AE has, and nothing that the A78AE lacks; a Cortex-A72 has no dot products.
CPUS = {"max": ["neon", "scalar"], "cortex-a76": ["neon", "scalar"], "cortex-a72": ["scalar"]}
IDS = [1, 45, 67, 300, 12, 99, 4, 2024]


@pytest.fixture(params=CPUS)
def cpu(request):
    done = run(tool("kernel-check", request.param), "--help")
    if "unable to find CPU model" in done.stderr:
        pytest.skip(f"this qemu-aarch64 has no {request.param}")
    assert done.returncode == 0, done.stderr
    return request.param


def test_the_best_kernels_of_the_cpu_are_found_and_give_our_bits(cpu):
    digests = kernel_digests(cpu)
    assert list(digests) == CPUS[cpu]
    expected = kernel_digests()["scalar"]
    assert all(table == expected for table in digests.values())


# 8 and 24 MiB are too little for all experts, so that they are read and evicted.
@pytest.mark.parametrize(
    ("experts", "dense", "memory"), [("int4", "int8", 8 << 20), ("f32", "f32", 24 << 20)]
)
def test_the_same_token_stream(pack_factory, cpu, experts, dense, memory):
    pack = pack_factory(experts=experts, dense=dense)
    options = [*IDS, "-n", 16, "--threads", 2]
    here = token_report(pack, *options)
    there = token_report(pack, *options, "--memory", memory, cpu=cpu)
    assert there["backend"] == f"cpu/{CPUS[cpu][0]}"
    assert (there["tokens"], there["logits"]) == (here["tokens"], here["logits"])
    assert int(there["bytes_read"]) > (pack / "experts.safetensors").stat().st_size


def test_kernels_that_the_cpu_lacks_are_refused(pack_factory):
    done = run(tool("tokens", "cortex-a72"), pack_factory(), 1, "--kernels", "neon")
    assert done.returncode == 1
    assert 'kernels="neon" cannot run on this machine; use one of auto, scalar' in done.stderr
