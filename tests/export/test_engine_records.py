# SPDX-License-Identifier: Apache-2.0
"""Only a plan that is recorded, intact, and right for this library and device is handed out."""

import json
import os
import shutil

import pytest

from adapmoe.errors import EngineError
from adapmoe.tensorrt import CudaDevice, DeviceModel, EngineRecord, read_engine_records
from adapmoe.tensorrt.records import write_records
from support.packs.small_pack import write_small_pack
from support.tensorrt.stand_in_engines import set_all

TAG = "tensorrt-sm_87"
LAYERS, EXPERTS = 2, 3
AGX, NANO = DeviceModel("Orin", 16), DeviceModel("Orin", 8)
HERE = {"library": "tensorrt", "version": "10.3.0", "device": CudaDevice("sm_87", AGX)}
REBUILD = "adapmoe build-engines .*small.adapmoe --builder tensorrt"


def record(layer, expert, data, **changes):
    from hashlib import sha256

    fields = {
        "layer": layer,
        "expert": expert,
        "file": f"layer{layer}-expert{expert}.plan",
        "library": "tensorrt",
        "version": "10.3.0",
        "targets": ("sm_87",),
        "flags": ("STRONGLY_TYPED",),
        "onnx_sha256": "0" * 64,
        "sha256": sha256(data).hexdigest(),
        "bytes": len(data),
        "seconds": 1.5,
        "peak_rss_bytes": 1000,
    }
    return EngineRecord(**(fields | changes))


def plan_data(layer, expert):
    return f"plan of {layer} {expert}".encode()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pack = tmp_path_factory.mktemp("records") / "small.adapmoe"
    write_small_pack(pack, LAYERS, EXPERTS, 1)
    folder = pack / "engines" / TAG
    folder.mkdir(parents=True)
    records = []
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            data = plan_data(layer, expert)
            (folder / f"layer{layer}-expert{expert}.plan").write_bytes(data)
            records.append(record(layer, expert, data))
    write_records(pack, TAG, records)
    return pack


@pytest.fixture
def pack(built, tmp_path):
    """A copy that the test may change."""
    shutil.copytree(built, tmp_path / "small.adapmoe")
    return tmp_path / "small.adapmoe"


def edit(pack, change):
    path = pack / "engines" / TAG / "engines.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def refused(pack, match, **changes):
    with pytest.raises(EngineError, match=match):
        read_engine_records(pack, TAG, **(HERE | changes))


def test_good_records_hand_out_the_plans(built):
    engines = read_engine_records(built, TAG, **HERE)
    assert len(engines.records) == LAYERS * EXPERTS
    assert engines.read_plan(1, 2) == plan_data(1, 2)
    assert engines.records[0, 0] == record(0, 0, plan_data(0, 0))


def test_a_damaged_plan_is_refused(pack):
    path = pack / "engines" / TAG / "layer1-expert0.plan"
    engines = read_engine_records(pack, TAG, **HERE)
    path.write_bytes(b"Plan of 1 0")
    wanted = rf"layer1-expert0.plan: SHA-256 is .* tensorrt 10.3.0 for sm_87 wrote.*{REBUILD}"
    refused(pack, wanted)
    with pytest.raises(EngineError, match=wanted):
        engines.read_plan(1, 0)
    unchecked = read_engine_records(pack, TAG, **HERE, check_plans=False)
    with pytest.raises(EngineError, match=wanted):
        unchecked.read_plan(1, 0)
    path.unlink()
    refused(pack, f"layer1-expert0.plan: cannot be read: No such file.*{REBUILD}")


def test_a_plan_of_another_version_or_library_is_refused(pack):
    built_by = "built by tensorrt 10.3.0 for sm_87"
    refused(pack, f"{built_by}, but here is tensorrt 10.16.2.*{REBUILD}", version="10.16.2")
    refused(pack, f"{built_by}, but here is tensorrt_rtx 10.3.0", library="tensorrt_rtx")


def test_a_plan_for_another_device_is_refused(pack):
    other = CudaDevice("sm_86", AGX)
    refused(pack, "for sm_87, but this device is sm_86; build for it", device=other)


def test_a_plan_of_another_model_of_device_is_refused(pack):
    edit(pack, set_all(device={"name": "Orin", "multiprocessors": 16}))
    engines = read_engine_records(pack, TAG, **HERE)
    assert engines.records[1, 1].device == AGX
    wanted = "on Orin with 16 multiprocessors, but this device is Orin with 8 multiprocessors"
    refused(pack, f"{wanted}; build for it: {REBUILD}", device=CudaDevice("sm_87", NANO))
    named = CudaDevice("sm_87", DeviceModel("Another", 16))
    refused(pack, "on Orin with 16 .* is Another with 16", device=named)


def test_what_it_was_built_on_need_not_be_recorded(pack):
    read_engine_records(pack, TAG, **(HERE | {"device": CudaDevice("sm_87", NANO)}))
    write_records(pack, TAG, [record(0, 0, b"", device=AGX), record(0, 1, b"")])
    listed = json.loads((pack / "engines" / TAG / "engines.json").read_text())["engines"]
    assert listed[0]["device"] == {"name": "Orin", "multiprocessors": 16}
    assert "device" not in listed[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_building_again_is_no_remedy_for_a_plan_that_may_not_be_read(pack):
    (pack / "engines" / TAG / "layer1-expert0.plan").chmod(0)
    refused(pack, "layer1-expert0.plan: cannot be read: Permission denied$")


def test_a_plan_that_is_not_listed_is_refused(pack):
    engines = read_engine_records(pack, TAG, **HERE)
    with pytest.raises(EngineError, match="lists no engine of expert 7 in layer 0"):
        engines.read_plan(0, 7)
    (pack / "engines" / TAG / "layer0-expert7.plan").write_bytes(b"from elsewhere")
    refused(pack, f"layer0-expert7.plan: is not listed in engines.json.*{REBUILD}")


def test_an_unfinished_build_is_refused(pack):
    (pack / "engines" / TAG / "layer1-expert2.plan").unlink()
    edit(pack, lambda found: found["engines"].pop())
    refused(pack, f"lists 5 engines, the model has 6 experts; finish the build: {REBUILD}")


def test_no_engines_at_all_says_which_there_are(pack):
    (pack / "engines" / TAG).rename(pack / "engines" / "tensorrt_rtx-sm_80+")
    refused(pack, f"missing; there are engines for tensorrt_rtx-sm_80.*{REBUILD}")
    shutil.rmtree(pack / "engines")
    refused(pack, f"missing; there are no engines; build the engines: {REBUILD}")


def test_engines_of_another_pack_are_refused(pack):
    edit(pack, lambda found: found.update(manifest_sha256="0" * 64))
    refused(pack, "the engines are of another pack, with manifest.json of SHA-256 0000")


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"format": "adapmoe-engines"}'])
def test_a_damaged_list_is_refused(pack, text):
    (pack / "engines" / TAG / "engines.json").write_text(text)
    refused(pack, "engines.json: (cannot be read as JSON|is not adapmoe-engines version 1)")


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "../../../other.plan"},
        {"sha256": "0" * 64 + "\n"},
        {"layer": True},
        {"layer": 10**400},
        {"peak_rss_bytes": 1.5},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"targets": ["sm_87\n"]},
        {"file": None},
        {"sha256": "abc"},
        {"layer": "0"},
        {"bytes": -1},
        {"targets": []},
        {"targets": ["sm_87; rm"]},
        {"targets": None},
        {"flags": [1]},
        {"version": 10},
        {"seconds": "1"},
        {"device": None},
        {"device": {"name": "Orin"}},
        {"device": {"name": 1, "multiprocessors": 16}},
        {"device": {"name": "Orin", "multiprocessors": 0}},
        {"device": {"name": "Orin", "multiprocessors": 16, "more": 1}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_record_that_is_not_as_it_should_be_is_refused(pack, changes):
    edit(pack, lambda found: found["engines"][0].update(changes))
    (name,) = changes
    where = rf"\$\.engines\[0\](\.{name}|`| *;)|`{name}`|out of range|malformed"
    refused(pack, rf"engines.json: .*({where}).*; build the engines: {REBUILD}")


@pytest.mark.parametrize("change", [{"engines": None}, {"engines": {}}, {"more": 1}], ids=str)
def test_a_list_that_is_not_as_it_should_be_is_refused(pack, change):
    edit(pack, lambda found: found.update(change))
    refused(pack, rf"engines.json: .*`?{next(iter(change))}.*; build the engines: {REBUILD}")


def test_an_expert_listed_twice_is_refused(pack):
    edit(pack, lambda found: found["engines"].append(found["engines"][0]))
    refused(pack, "an expert is listed twice")


@pytest.mark.parametrize(
    ("targets", "device", "runs"),
    [
        (("sm_80+",), "sm_80", True),
        (("sm_80+",), "sm_120", True),
        (("sm_80+",), "sm_75", False),
        (("sm_86", "sm_120"), "sm_120", True),
        (("sm_86",), "sm_87", False),
    ],
)
def test_which_devices_a_plan_runs_on(targets, device, runs):
    assert record(0, 0, b"", targets=targets).runs_on(device) is runs
