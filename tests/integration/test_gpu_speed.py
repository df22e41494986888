# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the GPU kernels: emulated, it is right; on a GPU (`-m gpu`) it also judges.

Only the share of the bandwidth is judged; tokens per second are printed.
"""

import math
import shutil
import subprocess
import sys

import pytest

from benchmarks import gpu_speed, widen
from support.source.source_tree import ROOT
from support.source.tools import tool

WIDE_LAYERS = 2  # of the 8: 1.7 GB
SMALL = {"shapes": ((32, 256), (64, 128)), "total_bytes": 1 << 16}


def test_gemv_reads_at_half_of_the_bandwidth_of_a_discrete_gpu(gpu_build, capsys):
    sizes = SMALL if gpu_build == "emulated" else {}
    rows = gpu_speed.gemv(gpu_build, **sizes)
    with capsys.disabled():
        print(f"\n{gpu_speed.table(rows)}")
    assert len(rows) == 12
    assert all(math.isfinite(row["share"]) and row["share"] > 0 for row in rows)
    if not gpu_speed.is_integrated(gpu_build):
        assert gpu_speed.min_share(rows) >= gpu_speed.MIN_SHARE


def test_how_weights_are_read_does_not_change_a_product(gpu_build, capsys):
    sizes = {"shape": (32, 2304), "total_bytes": 1 << 16} if gpu_build == "emulated" else {}
    rows = gpu_speed.again_or_once(gpu_build, **sizes)
    with capsys.disabled():
        print(f"\n{gpu_speed.table(rows)}")
    assert [row["rows"] for row in rows] == [*range(1, 17), *range(1, 17)]


@pytest.fixture(scope="module")
def decode_pack(gpu_build, pack_factory, tiny_checkpoint, tmp_path_factory):
    """For a GPU, the first layers of the test model at the size of Mixtral-8x7B's."""
    if gpu_build == "emulated":
        yield pack_factory()
        return
    folder = tmp_path_factory.mktemp("wide")
    shape = {"num_hidden_layers": WIDE_LAYERS}
    widen.widen(tiny_checkpoint, folder / "wide.adapmoe", shape)
    yield folder / "wide.adapmoe"
    shutil.rmtree(folder)


def test_decode_speed(gpu_build, decode_pack, capsys):
    tokens = 3 if gpu_build == "emulated" else 64
    rows = gpu_speed.decode(gpu_build, decode_pack, tokens)
    with capsys.disabled():
        layers = "" if gpu_build == "emulated" else f", {WIDE_LAYERS} layers of Mixtral-8x7B's size"
        print(f"\ndecoding{layers}\n{gpu_speed.table(rows)}")
    assert [row["path"] for row in rows] == ["w4a8", "w4a16"]
    assert all(row["tokens_per_s"] > 0 for row in rows)
    assert [row["replayed"] for row in rows] == [tokens - 1] * 2


def test_the_time_of_one_expert(gpu_build, pack_factory):
    for path in ("w4a8", "w4a16"):
        arguments = ("expert", pack_factory(), "cuda", path)
        assert float(gpu_speed.report(gpu_build, "gpu-bench", *arguments)["seconds"]) > 0


@pytest.mark.emulated
def test_the_program():
    tool("gpu-bench", build="emulated")
    command = [sys.executable, "-m", "benchmarks.gpu_speed", "gemv", "--build", "nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "run `make cuda-tools`" in done.stderr
