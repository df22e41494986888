# SPDX-License-Identifier: Apache-2.0
"""Experts as TensorRT engines, with a stand-in for TensorRT: what is around the library is real.

The stand-in (tests/tensorrt_emulation) runs an expert on the CPU from a plan that these tests
write. Plans are read, checked, placed, run and evicted as on a GPU; whether TensorRT takes what it
is given is not shown here.
"""

import shutil

import numpy as np
import pytest

from adapmoe.pack.weights import ExpertReader
from support.source.tools import run, token_report, tool
from support.tensorrt.stand_in_engines import (
    DEVICE,
    ENGINES,
    change_list,
    copy_pack,
    flip_bit,
    library,
    plan_bytes,
    set_all,
    write_engines,
)

pytestmark = pytest.mark.emulated

IDS = [1, 45, 67, 300, 12, 99, 4, 2024, 8, 15, 16, 23, 42]


def report(pack, *options, env=None, ids=IDS):
    return token_report(pack, *ids, *ENGINES, *options, build="emulated", env=env or library(10))


def refusal(pack, *options, env=None, status=1):
    done = run(
        tool("tokens", build="emulated"),
        pack,
        1,
        "-n",
        1,
        *ENGINES,
        *options,
        env=env or library(10),
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def engine_pack(pack_factory, tmp_path_factory):
    tool("tokens", build="emulated")
    pack = copy_pack(pack_factory(tile_width=64), tmp_path_factory.mktemp("engines"))
    write_engines(pack)
    return pack


@pytest.fixture
def spoilt(engine_pack, tmp_path):
    """A copy of the pack and the folder of its engines, to damage."""
    pack = copy_pack(engine_pack, tmp_path)
    folder = pack / "engines" / "tensorrt-sm_00"
    shutil.copytree(engine_pack / "engines" / folder.name, folder)
    return pack, folder


def logits(pack, path, *options, **others):
    found = token_report(
        pack, *IDS, "-n", 1, "--logits", path, *options, build="emulated", **others
    )
    return found, np.fromfile(path, np.float32).reshape(len(IDS) + 1, -1)[:-1]


def test_engines_give_nearly_the_logits_of_the_other_experts(engine_pack, tmp_path):
    found, engines = logits(engine_pack, tmp_path / "trt", *ENGINES, env=library(10))
    assert found["backend"] == "cuda/sm_00+tensorrt/10.3.0.9"
    _, cpu = logits(engine_pack, tmp_path / "cpu", "--backend", "cpu")
    error = np.linalg.norm(engines - cpu) / np.linalg.norm(cpu)
    assert 0 < error < 0.05  # 8 layers of W4A16 against W4A8
    assert np.mean(engines.argmax(1) == cpu.argmax(1)) > 0.8


def test_the_same_bits_while_engines_are_read_and_evicted(engine_pack):
    everything = report(engine_pack, "-n", 4)
    least = floor_of(engine_pack, *ENGINES)
    evicting = report(engine_pack, "-n", 4, "--memory", least)
    assert (evicting["tokens"], evicting["logits"]) == (everything["tokens"], everything["logits"])
    plans = sum(path.stat().st_size for path in engine_pack.glob("engines/*/*.plan"))
    assert int(everything["bytes_read"]) <= 1.01 * plans
    assert int(evicting["bytes_read"]) > 1.5 * int(everything["bytes_read"])


def test_the_same_bits_while_the_ceiling_moves(engine_pack):
    everything = report(engine_pack, "-n", 9)
    least = floor_of(engine_pack, *ENGINES)
    moved = report(engine_pack, "-n", 9, "--memory", 256 << 20, "--memory-later", least + (1 << 20))
    assert (moved["tokens"], moved["logits"]) == (everything["tokens"], everything["logits"])
    assert int(moved["bytes_read"]) > 1.5 * int(everything["bytes_read"])


@pytest.mark.parametrize("gpu", ["integrated", "discrete"])
def test_the_speed_of_an_engine_is_measured(engine_pack, gpu):
    env = library(10) | {"ADAPMOE_EMULATED_GPU": gpu}
    command = (tool("gpu-bench", build="emulated"), "expert", engine_pack, "cuda", "tensorrt")
    done = run(*command, env=env)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[1]) > 0
    done = run(*command, env={"LD_LIBRARY_PATH": ""})
    assert "TensorRT 10 is not here" in done.stderr


def floor_of(pack, *options):
    """The least memory for what report() decodes, as the refusal of less names it."""
    small = ("-n", 4, *options, "--memory", 1 << 20)
    done = run(tool("tokens", build="emulated"), pack, *IDS, *small, env=library(10))
    assert "below the floor" in done.stderr
    return int(done.stderr.split("at least ")[1].split("(")[1].split(" bytes")[0])


def test_staging_frames_and_scratch_are_within_the_ceiling(engine_pack):
    sizes = sorted(path.stat().st_size for path in engine_pack.glob("engines/*/*.plan"))
    least = floor_of(engine_pack, *ENGINES)
    # Two plans in staging memory and three engines, here f32, instead of three int4 experts.
    assert least > floor_of(engine_pack, "--backend", "cuda") + 4 * sizes[-1]
    unwatched = library(10) | {"ADAPMOE_EMULATED_RACES": "unwatched"}  # which takes memory
    tight = report(engine_pack, "-n", 4, "--memory", least, env=unwatched)
    roomy = report(engine_pack, "-n", 4, env=unwatched)
    slack = 64 << 20
    assert int(tight["peak_rss_bytes"]) < least + slack
    # All engines instead of three: device memory is the heap of the emulation.
    more = int(roomy["peak_rss_bytes"]) - int(tight["peak_rss_bytes"])
    assert 0.7 * sum(sizes) < more < 1.3 * sum(sizes)


@pytest.mark.parametrize("rows", [1, 16, 17, 80])
def test_any_number_of_rows(engine_pack, rows):
    ids = [(7 * i + 3) % 1000 for i in range(rows)]
    batch = report(engine_pack, "-n", 1, ids=ids)
    again = report(engine_pack, "-n", 1, "--memory", 64 << 20, ids=ids)
    assert batch["logits"] == again["logits"]


def test_the_library_that_built_the_plans_is_chosen(spoilt):
    pack, _ = spoilt
    write_engines(pack, major=11)
    both = library(10, 11)
    assert report(pack, "-n", 1, env=both)["backend"].endswith("tensorrt/11.3.0.9")
    text = refusal(pack, env=library(10))
    assert "built by tensorrt 11.3.0 for sm_00, but TensorRT 11 is not here" in text
    assert f"adapmoe build-engines {pack} --builder tensorrt" in text


def test_engines_need_a_library_the_gpu_backend_and_inexactness(engine_pack):
    none = {"LD_LIBRARY_PATH": ""}
    text = refusal(engine_pack, env=none)
    assert "TensorRT 10 is not here: libnvinfer.so.10" in text
    assert "name its folder in LD_LIBRARY_PATH" in text
    assert "allow that with exact=False" in refusal(engine_pack, "--exact", "yes")
    assert "is a way of the GPU backend" in refusal(engine_pack, "--backend", "cpu")
    assert 'arithmetic="fast": expected one of' in refusal(engine_pack, "--experts", "fast")


def test_other_experts_still_give_the_bits_of_the_cpu(engine_pack):
    by_name = report(engine_pack, "-n", 1, "--experts", "w4a8", "--exact", "yes")
    cpu = token_report(engine_pack, *IDS, "-n", 1, "--backend", "cpu", build="emulated")
    assert by_name["logits"] == cpu["logits"]


def test_the_plan_that_is_tried_first_is_checked_too(spoilt):
    pack, folder = spoilt
    largest = max(folder.glob("*.plan"), key=lambda path: path.stat().st_size)
    flip_bit(largest, 5000)
    assert f"{largest.name}: SHA-256 is" in refusal(pack)


def test_a_plan_that_the_library_refuses_is_named(spoilt):
    """Recorded with its right hash, but of another TensorRT than the record says."""
    pack, folder = spoilt
    write_engines(pack, major=11)
    change_list(folder, set_all(version="10.3.0"))
    assert "the plan is of another TensorRT" in refusal(pack)


def test_a_plan_of_another_model_is_refused(spoilt):
    pack, folder = spoilt
    reader = ExpertReader(pack)
    data = bytearray(plan_bytes(reader, 0, 0, 10))
    data[12:16] = (128).to_bytes(4, "little")  # hidden_size
    largest = max(folder.glob("*.plan"), key=lambda path: path.stat().st_size)
    data += bytes(largest.stat().st_size - len(data))
    largest.write_bytes(data)
    import hashlib

    def record_it(found):
        for engine in found["engines"]:
            if engine["file"] == largest.name:
                engine["sha256"] = hashlib.sha256(data).hexdigest()

    change_list(folder, record_it)
    assert "not that of an expert of this model" in refusal(pack)


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (
            "10.4.0",
            "here is TensorRT 10.3.0.9, and a plan is only read by the version that built it",
        ),
        ("9.1.0", "adapters for TensorRT 10, 11 only"),
    ],
)
def test_plans_of_another_version_are_refused(spoilt, version, reason):
    pack, folder = spoilt
    change_list(folder, set_all(version=version))
    text = refusal(pack)
    assert reason in text
    assert f"adapmoe build-engines {pack} --builder tensorrt" in text


def test_plans_of_another_device_are_refused(spoilt):
    pack, folder = spoilt
    change_list(folder, set_all(device=DEVICE))
    report(pack, "-n", 1)
    change_list(folder, set_all(device=DEVICE | {"multiprocessors": 16}))
    text = refusal(pack)
    assert "on emulated with 16 multiprocessors, but this device is emulated with 1" in text
    assert f"adapmoe build-engines {pack} --builder tensorrt" in text


def test_an_unlisted_plan_is_refused(spoilt):
    pack, folder = spoilt
    change_list(folder, lambda found: found["engines"].pop())
    assert "lists 63 engines, the model has 64 experts" in refusal(pack)


def test_a_build_without_tensorrt_says_so(engine_pack):
    done = run(tool("tokens", build="cuda"), engine_pack, 1, *ENGINES)
    assert done.returncode == 1
    assert "no NVIDIA driver here" in done.stderr
