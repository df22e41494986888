# SPDX-License-Identifier: Apache-2.0
"""Which lists of TensorRT plans are accepted, and which plans are let through."""

import hashlib
import os
import resource
import shutil
import subprocess
import sys

import pytest

from adapmoe import _testing
from support.tensorrt.stand_in_engines import (
    DEVICE,
    TARGET,
    change_list,
    copy_pack,
    set_all,
    write_engines,
)

EXPERTS = 64  # of the tiny checkpoint


@pytest.fixture(scope="module")
def engine_pack(pack_factory, tmp_path_factory):
    pack = copy_pack(pack_factory(), tmp_path_factory.mktemp("engines"))
    write_engines(pack)
    return pack


@pytest.fixture
def spoilt(engine_pack, tmp_path):
    """A copy of the pack and the folder of its engines, to damage."""
    pack = copy_pack(engine_pack, tmp_path)
    folder = pack / "engines" / "tensorrt-sm_00"
    shutil.copytree(engine_pack / "engines" / folder.name, folder)
    return pack, folder


def open_store(pack, target=TARGET, **options):
    return _testing.EngineStore(str(pack), target, **options)


def plans_of(pack):
    """In the order of experts."""
    files = [f"layer{expert // 8}-expert{expert % 8}.plan" for expert in range(EXPERTS)]
    return [(pack / "engines" / "tensorrt-sm_00" / file).read_bytes() for file in files]


@pytest.mark.parametrize("always", [True, False])
def test_every_plan_is_let_through_and_nothing_else(engine_pack, always):
    store = open_store(engine_pack, always=always)
    plans = plans_of(engine_pack)
    for _ in range(2):  # the second time by CRC32C, without `always`
        for expert, plan in enumerate(plans):
            store.check(expert, plan)
    for expert in (0, 7, EXPERTS - 1):
        damaged = bytearray(plans[expert])
        damaged[len(damaged) // 2] ^= 16
        with pytest.raises(_testing.StatusError, match=r"damaged.*rebuild: adapmoe build-engines"):
            store.check(expert, bytes(damaged))
        with pytest.raises(_testing.StatusError, match="damaged"):
            store.check(expert, plans[expert - 1])


def test_damage_is_found_at_the_first_look_by_hash(engine_pack):
    store = open_store(engine_pack, always=False)
    with pytest.raises(_testing.StatusError, match=r"kEngineError: .*plan: SHA-256 is"):
        store.check(5, plans_of(engine_pack)[5] + b"x")


def test_the_largest_plan(engine_pack):
    largest = max(plans_of(engine_pack), key=len)
    assert hashlib.sha256(open_store(engine_pack).read_largest()).digest() == (
        hashlib.sha256(largest).digest()
    )


def set_first(**fields):
    return lambda found: found["engines"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: found["engines"].pop(3), "lists 63 engines, the model has 64 experts"),
        (set_first(version="10.4.0"), "built by tensorrt 10.3.0, others by 10.4.0"),
        (set_all(targets=["sm_87"]), "for sm_87, but this device is sm_00"),
        (set_all(targets=["sm_87", "nonsense+"]), "for sm_87, nonsense.*this device is sm_00"),
        (set_first(file="../../experts.safetensors"), "file: this version reads only"),
        (set_first(bytes=17), "the list says 17: it is damaged and not used"),
        (set_first(sha256="x"), "expected 64 lowercase hexadecimal digits"),
        (set_first(library="tensorrt_rtx"), 'reads only "tensorrt"'),
        (set_first(layer=8), "layer: expected an integer in"),
        (set_first(targets="sm_00"), "targets: expected a list"),
        (set_first(targets=[87]), "targets: expected texts"),
        (set_first(surprise=1), "unknown field"),
        (set_first(device=None), "device: expected an object"),
        (set_first(device={"name": "emulated"}), "multiprocessors: missing"),
        (set_first(device=DEVICE | {"multiprocessors": 0}), "expected an integer in"),
        (set_first(device=DEVICE | {"name": 1}), "name: expected a string"),
        (set_first(device=DEVICE | {"surprise": 1}), "unknown field"),
        (lambda found: found.update(engines={}), "engines: expected a list"),
        (lambda found: found.update(manifest_sha256="0" * 64), "the engines are of another pack"),
        (lambda found: found.update(format_version=2), "format_version: this version reads only"),
        (lambda found: found["engines"].append(found["engines"][0]), "is listed twice"),
    ],
)
def test_lists_that_do_not_fit_are_refused(spoilt, change, reason):
    pack, folder = spoilt
    change_list(folder, change)
    match = f"kEngineError: .*{reason}.*adapmoe build-engines {pack}"
    with pytest.raises(_testing.StatusError, match=match):
        open_store(pack)


def test_plans_of_another_model_of_device_are_refused(spoilt):
    pack, folder = spoilt
    change_list(folder, set_all(device=DEVICE))
    open_store(pack)
    built = "built by tensorrt 10.3.0 on emulated with 1 multiprocessors, but this device is"
    for device, name in (
        ({"multiprocessors": 8}, "emulated with 8 multiprocessors"),
        ({"name": "other"}, "other with 1 multiprocessors"),
    ):
        match = f"kEngineError: .*plan: {built} {name}; .*adapmoe build-engines {pack}"
        with pytest.raises(_testing.StatusError, match=match):
            open_store(pack, **device)


OPEN_WITHIN = """
import resource, sys
from adapmoe import _testing
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[3])))
try:
    store = _testing.EngineStore(sys.argv[1], "sm_00")
except _testing.StatusError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def open_within(pack, soft, hard):
    """What a process prints that may have so many files open: the error, and its limit then."""
    arguments = [str(pack), str(soft), str(hard)]
    done = subprocess.run(
        [sys.executable, "-c", OPEN_WITHIN, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_the_limit_on_open_files_is_raised_for_the_plans(engine_pack):
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 1000
    assert open_within(engine_pack, 40, 1000) == [str(40 + EXPERTS)]
    assert open_within(engine_pack, 500, 1000) == ["500"]
    error, limit = open_within(engine_pack, 40, 50)
    assert "plan: cannot open: Too many open files" in error
    assert error.endswith("ulimit -n")  # building again is no remedy
    assert limit == "50"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_building_again_is_no_remedy_for_what_may_not_be_read(spoilt):
    pack, folder = spoilt
    for name in ("layer1-expert2.plan", "engines.json"):
        (folder / name).chmod(0)
        with pytest.raises(_testing.StatusError, match=f"{name}: cannot open: .*read it$"):
            open_store(pack)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"format": "adapmoe-engines"', b"\xff"])
def test_lists_that_are_no_json_are_refused(spoilt, text):
    pack, folder = spoilt
    (folder / "engines.json").write_bytes(text)
    with pytest.raises(_testing.StatusError, match=r"kEngineError: .*engines\.json"):
        open_store(pack)


def test_later_targets_are_covered(spoilt):
    pack, folder = spoilt
    folder.rename(folder.with_name("tensorrt-sm_87"))
    change_list(folder.with_name("tensorrt-sm_87"), set_all(targets=["sm_80+"]))
    open_store(pack, "sm_87")


def test_without_a_list_or_a_plan(spoilt):
    pack, folder = spoilt
    (folder / "layer1-expert2.plan").unlink()
    with pytest.raises(_testing.StatusError, match=r"layer1-expert2\.plan: cannot open.*rebuild"):
        open_store(pack)
    with pytest.raises(
        _testing.StatusError,
        match=r"tensorrt-sm_87/engines\.json: missing; there are engines for tensorrt-sm_00",
    ):
        open_store(pack, "sm_87")
    shutil.rmtree(folder.parent)
    with pytest.raises(_testing.StatusError, match="missing; there are no engines"):
        open_store(pack)
