# SPDX-License-Identifier: Apache-2.0
"""Which lists of TensorRT plans are accepted, and which plans are let through."""

import hashlib
import shutil

import pytest

from adapmoe import _testing
from support.stand_in_engines import TARGET, change_list, copy_pack, set_all, write_engines

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
