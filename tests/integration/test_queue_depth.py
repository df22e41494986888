# SPDX-License-Identifier: Apache-2.0
"""The disk probe on a real file, and that a pack opened later reads as it found best."""

import json
import shutil
import time

import pytest
from typer.testing import CliRunner

from adapmoe import LLM, PackError, ReadError, _core
from adapmoe.cli.main import app
from adapmoe.doctor.disk import try_depths
from adapmoe.machine.bandwidth import measure_disk, settings_for
from adapmoe.opening.read_settings import ReadSettings, remember
from adapmoe.pack.manifest import Manifest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "adapmoe"


@pytest.fixture
def pack(pack_factory):
    return pack_factory(tile_width=64)


def run_json(pack, *words):
    done = CliRunner().invoke(
        app, ["run", str(pack), "-p", "The", "-n", "2", "--max-context", "64", "--json", *words]
    )
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["stats"]["reading"]


@pytest.mark.parametrize("reader", ["pread", "io_uring"])
def test_every_setting_is_measured_and_nothing_is_written(cache, pack, reader):
    tiles = Manifest.read(pack).experts.all_tiles(pack)
    begin = time.perf_counter()
    found = measure_disk(tiles, reader=reader, seconds=0.3)
    assert time.perf_counter() - begin < 5  # 0.3 s and the load of the machine
    assert [(s.read_depth, s.request_bytes) for s in found.speeds] == settings_for(found.tile_bytes)
    assert all(speed.bytes_per_s > 1e6 for speed in found.speeds)
    assert found.best in found.speeds
    assert not cache.exists()


def test_what_is_remembered_is_what_a_session_uses(cache, pack):
    probe = measure_disk(Manifest.read(pack).experts.all_tiles(pack), seconds=0.1)
    if not probe.best.direct:
        pytest.skip("O_DIRECT is refused here")
    (chosen,) = (s for s in probe.speeds if s.read_depth == 16 and s.request_bytes == 0)
    best = type(probe)(probe.reader, probe.tile_bytes, [chosen])
    with LLM(pack, max_context=64) as llm:
        assert llm.reading == ReadSettings(4, 0, "default")
    remember(pack, best)
    with LLM(pack, max_context=64) as llm:
        assert llm.reading == ReadSettings(16, 0, "probed")
    seen = run_json(pack)
    assert (seen["read_depth"], seen["request_bytes"], seen["source"]) == (16, 0, "probed")
    assert run_json(pack, "--read-depth", "3")["source"] == "given"


@pytest.mark.parametrize("words", [["doctor"], ["plan", "--seconds", "1", "--memory", "1GiB"]])
def test_the_commands_remember(cache, pack, words):
    verb, *options = words
    done = CliRunner().invoke(app, [verb, str(pack), *options, "--json"])
    assert done.exit_code == 0, done.stdout
    if not _core.ReadProbe(str(pack / "experts.safetensors"), "auto", 4096).direct:
        pytest.skip("O_DIRECT is refused here")
    assert len(list(cache.glob("*.disk.json"))) == 1
    assert run_json(pack)["source"] == "probed"


@pytest.mark.slow
def test_a_benchmark_probes_once_and_says_so(cache, pack):
    words = ["bench", str(pack), "--tokens", "2", "--warmup", "1", "--prompt-tokens", "8"]
    done = CliRunner().invoke(app, [*words, "--repeat", "1", "--memory", "1GiB", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["settings"]["read_depth"] == found["reading"]["read_depth"]
    if found["bound"]["direct"]:
        assert found["reading"]["source"] == "probed"
    (record,) = cache.glob("*.disk.json")
    before = record.stat().st_mtime_ns
    done = CliRunner().invoke(app, [*words, "--repeat", "1", "--memory", "1GiB", "--json"])
    assert done.exit_code == 0, done.stderr
    assert record.stat().st_mtime_ns == before


def test_a_burst_outside_the_probe_is_refused(pack):
    probe = _core.ReadProbe(str(pack / "experts.safetensors"), "pread", 8192)
    assert probe.seconds(2, 4096, 0, 4096, 2) > 0
    for read_depth, tiles in ((0, 1), (1, 0), (1, 3)):
        with pytest.raises(ValueError, match="burst"):
            probe.seconds(read_depth, 0, 0, 4096, tiles)
    with pytest.raises(ReadError, match="the file ends there"):
        probe.seconds(1, 0, 1 << 40, 4096, 1)
    with pytest.raises(PackError, match="missing"):
        _core.ReadProbe(str(pack / "missing"), "auto", 4096)


def test_a_pack_that_cannot_be_read_is_told(tmp_path, pack):
    broken = shutil.copytree(pack, tmp_path / "broken.adapmoe")
    (broken / "experts.safetensors").write_bytes(b"")
    found = try_depths(broken)
    assert isinstance(found, str)
    assert "experts.safetensors" in found
