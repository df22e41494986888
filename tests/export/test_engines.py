# SPDX-License-Identifier: Apache-2.0
"""Building engines: processes, records, resuming. The library is a stand-in."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from adapmoe.cli.main import app
from adapmoe.errors import BackendUnavailableError, EngineError
from adapmoe.pack.weights import ExpertReader
from adapmoe.tensorrt import (
    CudaDevice,
    DeviceModel,
    build_engines,
    read_engine_records,
    tensorrt_builder,
    validate,
)
from adapmoe.tensorrt.builders import open_builder
from support.packs.engine_packs import FakeTensorRt, make_engine_pack
from support.source.imports import import_here

import_here("onnx")

TAG = "tensorrt_rtx-sm_80+"
EXPERTS = 8
ORIN = CudaDevice("sm_87", DeviceModel("Orin", 16))
RTX = CudaDevice("sm_86", DeviceModel("RTX", 28))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    folder = tmp_path / "library"
    folder.mkdir()
    return FakeTensorRt(folder, monkeypatch)


@pytest.fixture(scope="module")
def engine_pack(tmp_path_factory):
    return make_engine_pack(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def pack(engine_pack, tmp_path):
    """A copy that the test may change."""
    shutil.copytree(engine_pack, tmp_path / "small.adapmoe")
    return tmp_path / "small.adapmoe"


def build(pack, **options):
    return build_engines(pack, builder="tensorrt_rtx", **options)


def records_of(pack, tag=TAG):
    return json.loads((pack / "engines" / tag / "engines.json").read_text())["engines"]


def test_every_engine_is_built_as_asked_and_recorded(pack, fake):
    steps = []
    summary = build(pack, jobs=2, progress=lambda done, total: steps.append((done, total)))
    assert (summary.tag, summary.engines, summary.kept, summary.jobs) == (TAG, EXPERTS, 0, 2)
    assert steps[0] == (0, EXPERTS)
    assert steps[-1] == (EXPERTS, EXPERTS)
    listed = json.loads((pack / "onnx" / "onnx.json").read_text())["models"]
    engines = read_engine_records(pack, TAG, library="tensorrt_rtx", version="1.0", device=ORIN)
    for model, record in zip(listed, records_of(pack), strict=True):
        key = record["layer"], record["expert"]
        assert key == (model["layer"], model["expert"])
        plan = engines.read_plan(*key)
        assert len(plan) == record["bytes"]
        assert json.loads(plan) == {
            "onnx": model["sha256"],
            "flags": 2,  # 1 << STRONGLY_TYPED
            "aux_streams": 0,
            "targets": [],
            "profiles": [["x", [1, 64], [1, 64], [16, 64]]],
        }
        assert record["onnx_sha256"] == model["sha256"]
        assert record["flags"] == ["STRONGLY_TYPED", "rows=1..16", "max_aux_streams=0"]
        assert record["peak_rss_bytes"] > 10 << 20
        assert record["seconds"] >= 0
    assert not list((pack / "engines" / TAG).glob(".*"))
    assert build(pack).kept == EXPERTS


def test_targets_are_set_in_ascending_order(pack, fake):
    summary = build(pack, targets=["sm_120", "sm_86"], jobs=1)
    assert summary.tag == "tensorrt_rtx-sm_86-sm_120"
    plan = json.loads((pack / "engines" / summary.tag / "layer0-expert0.plan").read_text())
    assert plan["targets"] == ["SM86", "SM120"]
    with pytest.raises(EngineError, match="does not build for sm_87; it has sm_75, sm_80, sm_86"):
        build(pack, targets=["sm_87"])


@pytest.mark.slow
def test_only_what_does_not_match_is_built_again(pack, fake):
    build(pack)
    folder = pack / "engines" / TAG
    (folder / "layer0-expert1.plan").write_bytes(b"damaged")
    (folder / "layer1-expert1.plan").unlink()
    (folder / ".layer1-expert2.plan.123").write_bytes(b"half")
    assert build(pack).kept == EXPERTS - 2
    fake.set_version("2.0")
    assert build(pack).kept == 0
    assert {record["version"] for record in records_of(pack)} == {"2.0"}


def test_a_crash_costs_one_expert(pack, fake):
    fake.misbehave("crash:layer0-expert1")
    with pytest.raises(EngineError, match=r"1 of 8 engines .* expert 1 in layer 0: .*signal 6"):
        build(pack)
    assert len(records_of(pack)) == EXPERTS - 1
    fake.misbehave("")
    assert build(pack).kept == EXPERTS - 1


@pytest.mark.memory
def test_a_build_that_takes_too_much_memory_is_ended(pack, fake):
    fake.misbehave("memory:layer1-expert3")
    with pytest.raises(EngineError, match=r"expert 3 in layer 1: .*MiB of memory.*--max-rss"):
        build(pack, max_rss_bytes=256 << 20)
    assert len(records_of(pack)) == EXPERTS - 1


def test_what_the_library_says_is_in_the_error(pack, fake):
    fake.misbehave("refuse:layer0-expert0")
    with pytest.raises(EngineError, match="tensorrt_rtx cannot parse it: unknown operator"):
        build(pack)


def test_a_damaged_model_is_not_built(pack, fake):
    (pack / "onnx" / "layer1-expert0.onnx").write_bytes(b"damaged")
    with pytest.raises(EngineError, match=r"expert 0 in layer 1: .*onnx.json says"):
        build(pack)
    shutil.rmtree(pack / "onnx")
    with pytest.raises(EngineError, match=r"onnx.json: missing; make it: adapmoe export .* --onnx"):
        build(pack)


def command(pack, *options):
    verb = [sys.executable, "-m", "adapmoe.cli", "build-engines", str(pack)]
    return [*verb, "--builder", "tensorrt_rtx", *options]


@pytest.mark.slow
def test_a_killed_build_goes_on_where_it_stopped(pack, fake):
    fake.misbehave("slow:layer")
    process = subprocess.Popen(command(pack, "--jobs", "1"), stderr=subprocess.DEVNULL)
    path = pack / "engines" / TAG / "engines.json"
    while process.poll() is None and not (path.exists() and len(records_of(pack)) >= 3):
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = len(records_of(pack))
    assert 3 <= done < EXPERTS
    fake.misbehave("")
    summary = json.loads(
        subprocess.run(command(pack, "--json"), check=True, capture_output=True).stdout
    )
    assert summary["kept"] in (done, done - 1)  # a worker may have put the last word on the disk
    assert summary["engines"] == EXPERTS
    read_engine_records(pack, TAG, library="tensorrt_rtx", version="1.0", device=RTX)


def test_ctrl_c_says_that_the_rest_is_kept(pack, fake):
    fake.misbehave("slow:layer")
    process = subprocess.Popen(command(pack, "--jobs", "1"), stderr=subprocess.PIPE, text=True)
    path = pack / "engines" / TAG / "engines.json"
    while process.poll() is None and not (path.exists() and records_of(pack)):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "interrupted; what is finished is recorded: run the same command again" in said
    assert 1 <= len(records_of(pack)) < EXPERTS


def test_two_builds_at_once_are_refused(pack, fake):
    folder = pack / "engines" / TAG
    folder.mkdir(parents=True)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(EngineError, match="another build is writing there"):
        build(pack)
    os.close(descriptor)


def test_auto_takes_what_can_build_here(fake, monkeypatch):
    monkeypatch.setattr(tensorrt_builder, "find_device", lambda: ORIN)
    assert open_builder("auto").name == "tensorrt"
    monkeypatch.setattr(tensorrt_builder, "find_device", lambda: None)
    assert open_builder("auto").name == "tensorrt_rtx"
    fake.remove("tensorrt_rtx")
    with pytest.raises(BackendUnavailableError, match=r"none here; tensorrt_rtx is not installed"):
        open_builder("auto")
    with pytest.raises(BackendUnavailableError, match="pip install tensorrt-rtx"):
        open_builder("tensorrt_rtx")
    with pytest.raises(EngineError, match="choose auto, tensorrt, tensorrt_rtx"):
        open_builder("onnx")


@pytest.mark.slow
def test_tensorrt_builds_for_its_device_and_keeps_its_timings(pack, fake, monkeypatch):
    monkeypatch.setattr(tensorrt_builder, "find_device", lambda: ORIN)
    with pytest.raises(EngineError, match=r"the device that it runs on, sm_87, not for sm_86"):
        build_engines(pack, builder="tensorrt", targets=["sm_86"])
    summary = build_engines(pack, builder="tensorrt")
    assert (summary.tag, summary.jobs) == ("tensorrt-sm_87", 1)
    cache = pack / "engines" / "tensorrt-sm_87" / "timing.cache"
    assert cache.read_bytes() == b"+" * EXPERTS  # every build went on with those before
    cache.write_bytes(b"garbage")
    fake.set_version("2.0")
    build_engines(pack, builder="tensorrt")
    assert cache.read_bytes() == b"+" * EXPERTS


@pytest.fixture
def on_orin(fake, monkeypatch):
    """Builds the engines of a pack with tensorrt, on an Orin of so many multiprocessors."""

    def build_on(pack, multiprocessors=16, **options):
        device = CudaDevice("sm_87", DeviceModel("Orin", multiprocessors))
        monkeypatch.setattr(tensorrt_builder, "find_device", lambda: device)
        return build_engines(pack, builder="tensorrt", **options)

    return build_on


def test_tensorrt_does_not_build_experts_of_int8(fake, on_orin, tmp_path):
    pack = make_engine_pack(tmp_path, experts="int8")
    shutil.rmtree(pack / "onnx")  # not even looked for
    with pytest.raises(EngineError, match=r'are int8, .*arithmetic="w4a8" on the'):
        on_orin(pack)
    assert not (pack / "engines").exists()


@pytest.mark.parametrize("experts", ["f16", "f32"])
def test_tensorrt_builds_experts_of_floats(fake, on_orin, tmp_path, experts):
    assert on_orin(make_engine_pack(tmp_path, experts=experts)).engines == EXPERTS


def test_tensorrt_builds_one_engine_at_a_time(pack, on_orin):
    with pytest.raises(EngineError, match="--jobs 2: tensorrt chooses kernels by their times"):
        on_orin(pack, jobs=2)
    assert on_orin(pack, jobs=1).jobs == 1


def test_the_workspace_on_a_device_is_a_quarter_of_the_memory(pack, on_orin):
    on_orin(pack, max_rss_bytes=1 << 30)
    (plan, *_) = (pack / "engines" / "tensorrt-sm_87").glob("*.plan")
    assert json.loads(plan.read_text())["WORKSPACE"] == 1 << 28
    assert records_of(pack, "tensorrt-sm_87")[0]["flags"][-1] == "workspace=268435456"
    assert on_orin(pack, max_rss_bytes=2 << 30).kept == EXPERTS  # whatever the limit was then


@pytest.mark.slow
def test_plans_are_built_again_on_another_model_of_device(pack, on_orin):
    on_orin(pack)
    assert on_orin(pack).kept == EXPERTS
    assert on_orin(pack, multiprocessors=8).kept == 0
    (device, *_) = (record["device"] for record in records_of(pack, "tensorrt-sm_87"))
    assert device == {"name": "Orin", "multiprocessors": 8}


def test_validation_needs_a_device(pack, fake, monkeypatch):
    monkeypatch.setattr(validate, "find_device", lambda: None)
    done = CliRunner().invoke(app, ["build-engines", str(pack), "--validate"])
    assert done.exit_code == 1
    assert "--validate runs the engines on a CUDA device, and there is none here" in done.output
    assert not (pack / "engines").exists()


@pytest.mark.parametrize(("noise", "low", "high"), [(0, 0, 1e-12), (0.05, 0.03, 0.07)])
def test_validation_compares_with_the_weights(pack, fake, monkeypatch, noise, low, high):
    build(pack)

    def run(trt, plan, x):
        assert trt.__name__ == "tensorrt_rtx"
        assert json.loads(plan)["aux_streams"] == 0
        y = ExpertReader(pack).read(1, 2).evaluate(x)
        return [y[:1], y * (1 + noise * np.sign(np.sin(np.arange(y.size).reshape(y.shape))))]

    monkeypatch.setattr(validate, "_run", run)
    monkeypatch.setattr(validate, "find_device", lambda: RTX)
    assert low <= validate.relative_error(pack, TAG, 1, 2) <= high


@pytest.mark.slow
def test_validation_refuses_what_may_not_run_here(pack, fake, on_orin, monkeypatch):
    monkeypatch.setattr(validate, "check_can_validate", lambda: None)
    monkeypatch.setattr(validate, "find_device", lambda: ORIN)
    on_orin(pack, multiprocessors=8)
    other = "on Orin with 8 multiprocessors, but this device is Orin with 16"
    with pytest.raises(EngineError, match=other):
        validate.validate_engines(pack, "tensorrt-sm_87")
    on_orin(pack)
    fake.set_version("2.0")
    version = "built by tensorrt 1.0 for sm_87, but here is tensorrt 2.0, .* build-engines"
    for check in (
        lambda: validate.validate_engines(pack, "tensorrt-sm_87"),
        lambda: validate.relative_error(pack, "tensorrt-sm_87", 0, 0),
    ):
        with pytest.raises(EngineError, match=version):
            check()


def test_the_command_prints_sizes_or_json(pack, fake):
    verb = ["build-engines", str(pack), "--builder", "tensorrt_rtx"]
    done = CliRunner().invoke(app, verb)
    assert done.exit_code == 0, done.output
    assert "8 engines by tensorrt_rtx 1.0" in done.output
    summary = json.loads(CliRunner().invoke(app, [*verb, "--json"]).stdout)
    assert (summary["kept"], summary["worst_relative_l2"]) == (EXPERTS, None)
    assert CliRunner().invoke(app, [*verb, "--max-rss", "lots"]).exit_code == 2
