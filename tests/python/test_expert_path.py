# SPDX-License-Identifier: Apache-2.0
"""How experts are computed: chosen by given times, and kept between sessions."""

import json

import pytest

from adapmoe import LLM, BackendUnavailableError
from adapmoe.core_types import ExpertPaths
from adapmoe.opening.expert_path import Choice, Probe, choose_expert_path, device_probe, fastest
from support.machine.homes import leave_home
from support.tensorrt.stand_in_engines import change_list, copy_pack, set_all, write_engines

SLOW, FAST = 2e-3, 1e-3


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "adapmoe"


class Device:
    """A probe with given times that counts its measurements."""

    def __init__(self, seconds, key=("device", 1), without_engines=""):
        self.seconds, self.key, self.measured = seconds, key, []
        self.without_engines = without_engines

    def choose(self, experts="auto", *, exact=False):
        def time_of(path):
            self.measured.append(path)
            return self.seconds[path]

        paths = ExpertPaths(list(self.seconds), self.without_engines)
        probe = Probe(lambda: paths, time_of, lambda: {"device": list(self.key)})
        return choose_expert_path(experts, exact=exact, probe=probe)


@pytest.mark.parametrize(
    ("seconds", "path"),
    [
        ({"w4a8": FAST, "w4a16": SLOW}, "w4a8"),
        ({"w4a8": SLOW, "w4a16": FAST}, "w4a16"),
        ({"w4a8": FAST, "w4a16": FAST}, "w4a8"),  # exact costs nothing here
        ({"w4a16": FAST, "w4a8": FAST}, "w4a8"),
        ({"w4a8": SLOW, "w4a16": FAST, "other": FAST / 2}, "other"),
    ],
)
def test_the_fastest_is_chosen_and_the_exact_one_at_a_tie(seconds, path):
    assert fastest(seconds) == path


@pytest.mark.parametrize("experts", ["auto", "w4a8", "w4a16", "abacus"])
def test_nothing_is_measured_unless_it_may_be_inexact(cache, experts):
    device = Device({"w4a8": SLOW, "w4a16": FAST})
    assert device.choose(experts, exact=True) == Choice(experts)  # the core refuses what is not
    if experts != "auto":
        assert device.choose(experts) == Choice(experts)
    assert device.measured == []
    assert not cache.exists()


def test_where_there_is_one_path_nothing_is_measured(cache):
    device = Device({"w4a8": SLOW})
    assert device.choose() == Choice("w4a8")
    assert device.measured == []


def test_it_is_measured_once_and_said(cache):
    device = Device({"w4a8": SLOW, "w4a16": FAST})
    first = device.choose()
    assert first.path == "w4a16"
    assert first.note.startswith("arithmetic=w4a16: measured now, w4a8 2 ms, w4a16 1 ms for one")
    assert "\n" not in first.note
    (file,) = cache.iterdir()
    assert str(file) in first.note
    assert json.loads(file.read_text())["choice"] == "w4a16"

    other = Device({"w4a8": FAST, "w4a16": SLOW})
    assert other.choose().path == "w4a16"
    assert "measured before" in other.choose().note
    assert other.measured == []

    assert Device({"w4a8": FAST, "w4a16": SLOW}, key=("device", 2)).choose().path == "w4a8"
    with_more = Device({"w4a8": SLOW, "w4a16": FAST, "more": FAST / 2})
    assert with_more.choose().path == "more"
    assert len(list(cache.iterdir())) == 3


def test_engines_that_cannot_be_used_are_named(cache):
    why = "engines.json: built for sm_87, but this device is sm_90"
    assert Device({"w4a8": SLOW}, without_engines=why).choose() == Choice("w4a8", why)
    both = Device({"w4a8": SLOW, "w4a16": FAST}, without_engines=why).choose()
    assert both.path == "w4a16"
    assert both.note.endswith(why)


@pytest.mark.parametrize(
    ("path", "asked", "backend"),
    [
        ("tensorrt", "auto", "cuda"),
        ("tensorrt", "cuda", "cuda"),
        ("w4a8", "auto", "auto"),
        ("w4a16", "cuda", "cuda"),
    ],
)
def test_engines_run_on_the_gpu(path, asked, backend):
    assert Choice(path).backend(asked) == backend


def test_other_engines_are_measured_again(pack_factory, tmp_path):
    pack = copy_pack(pack_factory(), tmp_path)
    without = device_probe(pack, "cpu").key()
    folder = write_engines(pack)
    with_engines = device_probe(pack, "cpu").key()
    change_list(folder, set_all(seconds=1.0))
    keys = [without, with_engines, device_probe(pack, "cpu").key()]
    assert len({json.dumps(key) for key in keys}) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: "not JSON",
        lambda found: "[]",
        lambda found: json.dumps(found | {"version": 0}),
        lambda found: json.dumps(found | {"key": {}}),
        lambda found: json.dumps(found | {"seconds": {"w4a8": 1.0}}),
        lambda found: json.dumps(found | {"seconds": {"w4a8": -1.0, "w4a16": 1.0}}),
        lambda found: json.dumps(found | {"seconds": {"w4a8": "x", "w4a16": 1.0}}),
        lambda found: " " * (5 << 20) + json.dumps(found),
        lambda found: json.dumps(found | {"seconds": {"w4a8": 1e999, "w4a16": 1.0}}),
    ],
)
def test_a_damaged_record_is_measured_again(cache, damage):
    Device({"w4a8": SLOW, "w4a16": FAST}).choose()
    (file,) = cache.iterdir()
    file.write_text(damage(json.loads(file.read_text())))
    again = Device({"w4a8": FAST, "w4a16": SLOW})
    assert again.choose().path == "w4a8"
    assert again.measured == ["w4a8", "w4a16"]
    assert json.loads(file.read_text())["choice"] == "w4a8"


def test_without_a_place_to_keep_it_it_is_measured_every_time(tmp_path, monkeypatch):
    (tmp_path / "adapmoe").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device = Device({"w4a8": SLOW, "w4a16": FAST})
    assert [device.choose().path, device.choose().path] == ["w4a16", "w4a16"]
    assert len(device.measured) == 4


def test_without_a_home_nothing_is_named_as_kept(monkeypatch):
    leave_home(monkeypatch, None)
    choice = Device({"w4a8": SLOW, "w4a16": FAST}, without_engines="why").choose()
    assert choice.path == "w4a16"
    assert choice.note.endswith("for one expert; why")


def test_the_cpu_has_one_path(pack_factory):
    pack = pack_factory()
    probe = device_probe(pack, "cpu")
    assert probe.paths() == (["w4a8"], "")
    assert 0 < probe.seconds("w4a8") < 10
    with pytest.raises(BackendUnavailableError, match=r"no TensorRT|no usable GPU"):
        probe.seconds("tensorrt")
    assert probe.key()["sizes"][0] == 256
    with LLM(pack, backend="cpu", exact=False) as llm, LLM(pack, backend="cpu") as exact:
        assert llm.backend == exact.backend


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"arithmetic": "w4a16"}, ValueError, "allow that with exact=False"),
        ({"arithmetic": "abacus"}, ValueError, "one of auto, w4a8, w4a16"),
        ({"arithmetic": "w4a16", "exact": False}, BackendUnavailableError, "runs on a GPU only"),
    ],
)
def test_what_cannot_be_had_is_refused(pack_factory, options, error, message):
    with pytest.raises(error, match=message):
        LLM(pack_factory(), backend="cpu", **options)


def test_the_note_reaches_the_user(fake_core, tiny_checkpoint, monkeypatch, caplog):
    monkeypatch.setattr(
        "adapmoe.opening.core_options.choose_expert_path",
        lambda *_, **__: Choice("w4a16", "arithmetic=w4a16: why"),
    )
    with LLM(tiny_checkpoint, exact=False) as llm:
        assert llm._session.options["arithmetic"] == "w4a16"
        assert llm._session.options["exact"] is False
    assert "arithmetic=w4a16: why" in caplog.text
