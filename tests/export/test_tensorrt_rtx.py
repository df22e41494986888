# SPDX-License-Identifier: Apache-2.0
"""Engines that TensorRT-RTX itself builds, without a GPU."""

import importlib.metadata
import importlib.util
import json
import os
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from adapmoe.cli.main import app
from adapmoe.machine.cuda import find_device
from adapmoe.pack.onnx_models import read_onnx_models, write_onnx_models
from adapmoe.tensorrt import CudaDevice, DeviceModel, build_engines, read_engine_records
from adapmoe.tensorrt.validate import TOLERANCE, check_can_validate
from adapmoe_export import export_pack
from support.core.cpu_expert import CpuExpert
from support.models.big_checkpoint import big_config, write_big_checkpoint
from support.source.imports import import_here

if importlib.util.find_spec("tensorrt_rtx") is None:
    pytest.skip("no tensorrt_rtx: run `make slow`", allow_module_level=True)
import_here("onnx")
import_here("onnxruntime")
tensorrt_rtx = import_here("tensorrt_rtx")

from adapmoe_export.onnx_export import export_onnx  # noqa: E402
from support.models.onnx_models import reference, relative_l2, run_model  # noqa: E402

pytestmark = pytest.mark.slow
TAG = "tensorrt_rtx-sm_80+"
LAYERS = EXPERTS = 8  # of tiny-mixtral
MEMORY_LIMIT = 1 << 30  # of one build; 450 MiB is what an expert of Mixtral-8x7B's size took


def build(pack, capsys, **options):
    """Build, print what it took, and check the records as the runtime will."""
    summary = build_engines(
        pack, builder="tensorrt_rtx", jobs=os.cpu_count(), max_rss_bytes=MEMORY_LIMIT, **options
    )
    with capsys.disabled():
        print(
            f"\n{summary.engines} engines by {summary.library} {summary.version}: "
            f"{summary.seconds / summary.engines:.2f} s and {summary.bytes // summary.engines:,} "
            f"bytes each, peak memory of one {summary.peak_rss_bytes / 2**20:.0f} MiB"
        )
    engines = read_engine_records(
        pack,
        summary.tag,
        library="tensorrt_rtx",
        version=importlib.metadata.version("tensorrt_rtx"),
        device=CudaDevice("sm_86", DeviceModel("any", 1)),
    )
    assert len(engines.records) == summary.engines
    assert all(r.peak_rss_bytes <= MEMORY_LIMIT for r in engines.records.values())
    return summary


@pytest.fixture(scope="module")
def tiny(pack_factory, tmp_path_factory):
    pack = tmp_path_factory.mktemp("rtx") / "tiny.adapmoe"
    shutil.copytree(pack_factory(), pack)
    export_onnx(pack)
    return pack


def list_every(nth, pack):
    """Leave only every nth model on the list, so that no more engines are built."""
    models = list(read_onnx_models(pack, pack / "onnx").values())
    write_onnx_models(pack, pack / "onnx", models[::nth])


def test_an_engine_for_every_expert_of_tiny_mixtral(tiny, capsys):
    assert build(tiny, capsys).tag == TAG
    assert build(tiny, capsys).kept == 64


@pytest.mark.parametrize("experts", ["int8", "f16", "f32"])
def test_other_dtypes_and_a_target(pack_factory, tmp_path, capsys, experts):
    pack = tmp_path / "tiny.adapmoe"
    shutil.copytree(pack_factory(experts=experts), pack)
    export_onnx(pack)
    list_every(LAYERS * EXPERTS, pack)  # one will do
    summary = build_engines(pack, builder="tensorrt_rtx", targets=["sm_86"], jobs=1)
    assert (summary.tag, summary.engines) == ("tensorrt_rtx-sm_86", 1)


def test_an_expert_of_the_size_of_mixtral_8x7b(tmp_path, capsys):
    config = big_config(4096, 14336, 1, 1, vocab_size=64) | {"num_experts_per_tok": 1}
    write_big_checkpoint(tmp_path / "checkpoint", config)
    pack = tmp_path / "big.adapmoe"
    export_pack(tmp_path / "checkpoint", pack, group_size=128)
    shutil.rmtree(tmp_path / "checkpoint")
    models = export_onnx(pack)
    x = np.random.default_rng(0).standard_normal((2, 4096)).astype(np.float16)
    y = run_model(pack / "onnx" / "layer0-expert0.onnx", x)
    to_float = relative_l2(y, reference(pack, 0, 0, x))
    to_cpu = relative_l2(y, CpuExpert(pack).evaluate(0, 0, x.astype(np.float32)))
    with capsys.disabled():
        print(
            f"\nONNX of {models.bytes:,} bytes: {to_float:.1e} from float64, {to_cpu:.1e} from the "
            "CPU"
        )
    assert to_float <= 1e-3
    assert to_cpu <= 0.02
    # TensorRT stores equal constants once: the three matrices must differ.
    assert models.bytes < build(pack, capsys).bytes < 1.01 * models.bytes


@pytest.mark.gpu
def test_engines_compute_what_the_weights_say(pack_factory, tmp_path, capsys):
    """Two experts of every layer: each runs in a process that compiles its kernels anew."""
    check_can_validate()  # fails without a GPU, or without pycuda
    pack = tmp_path / "tiny.adapmoe"
    shutil.copytree(pack_factory(), pack)
    export_onnx(pack)
    list_every(EXPERTS // 2, pack)
    done = CliRunner().invoke(
        app, ["build-engines", str(pack), "--builder", "tensorrt_rtx", "--validate", "--json"]
    )
    device = find_device()
    assert device is not None
    capability = device.target
    known = {name.replace("SM", "sm_") for name in tensorrt_rtx.ComputeCapability.__members__}
    if done.exit_code != 0 and capability not in known:
        pytest.skip(f"TensorRT-RTX has nothing for {capability}: {done.output or done.exception}")
    assert done.exit_code == 0, done.output or done.exception
    report = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n{report['engines']} engines: {report['worst_relative_l2']:.1e} from float64")
    assert report["engines"] == 2 * LAYERS
    assert report["worst_relative_l2"] <= TOLERANCE
