# SPDX-License-Identifier: Apache-2.0
"""Queue depth and size of a read: the choice, the probe's turns, and what is remembered."""

import json
import os

import pytest

from adapmoe import _core
from adapmoe.doctor.disk import examine_depths
from adapmoe.errors import ReadError
from adapmoe.machine import bandwidth as disk_probe
from adapmoe.machine.bandwidth import (
    DiskProbe,
    DiskSpeed,
    Tiles,
    choose,
    measure_disk,
    settings_for,
)
from adapmoe.opening.read_settings import ReadSettings, read_settings, remember

TILE = 8 << 20


def speeds(*figures, direct=True):
    """(read_depth, GB/s) or (read_depth, GB/s, request_bytes), the same in every round"""
    default = figures[0][1]
    return [DiskSpeed(n, 1e9 * v, direct, *(size or [0]), v / default) for n, v, *size in figures]


def test_the_default_stays_unless_another_is_clearly_faster():
    assert choose(speeds((4, 2.0), (2, 1.0), (8, 2.1), (16, 2.29)), TILE).read_depth == 4
    assert choose(speeds((4, 2.0), (2, 1.0), (8, 2.4), (16, 2.42)), TILE).read_depth == 8


def test_of_equals_the_one_with_least_in_flight_is_taken():
    found = speeds((4, 1.0), (2, 1.95), (8, 2.0), (16, 2.0, 2 << 20), (16, 2.0, 512 << 10))
    assert choose(found, TILE) == found[4]  # 8 MiB in flight
    assert choose(found[:4], TILE).read_depth == 2  # 16 MiB


def test_only_reads_smaller_than_a_tile_are_tried():
    assert settings_for(4096) == [(4, 0), (2, 0), (8, 0), (16, 0), (32, 0)]
    assert (16, 2 << 20) in settings_for(TILE)
    assert (16, 2 << 20) not in settings_for(2 << 20)
    assert (16, 512 << 10) in settings_for(2 << 20)


class FakeDisk:
    """`_core.ReadProbe` of a disk with a speed of its own; every burst moves the clock."""

    reader, direct = "io_uring", True

    def __init__(self, clock, bytes_per_s):
        self.clock, self.bytes_per_s = clock, bytes_per_s
        self.bursts = []

    def seconds(self, read_depth, request_bytes, offset, tile_bytes, tiles):
        assert 4096 <= offset <= 4096 + (64 - tiles) * tile_bytes
        took = tiles * tile_bytes / self.bytes_per_s(read_depth, request_bytes)
        self.bursts.append((read_depth, request_bytes, tiles))
        self.clock[0] += took
        return took


@pytest.fixture
def probe_of(monkeypatch, tmp_path):
    """Probe a disk whose speed is a function of depth and size; (what was found, the disk)."""

    def probe(bytes_per_s, **options):
        clock = [0.0]
        monkeypatch.setattr(disk_probe.time, "perf_counter", lambda: clock[0])
        disk = FakeDisk(clock, bytes_per_s)
        monkeypatch.setattr(_core, "ReadProbe", lambda path, reader, size: disk)
        return measure_disk(Tiles(tmp_path / "x", 4096, TILE, 64), **options), disk

    return probe


def test_a_disk_that_wants_depth_gets_it(probe_of):
    found, disk = probe_of(lambda read_depth, request_bytes: 1e9 * min(read_depth, 8))
    assert (found.best.read_depth, found.best.request_bytes) == (16, 512 << 10)
    assert found.best.bytes_per_s == 8e9
    assert len(found.speeds) == len(settings_for(TILE))
    assert disk.clock[0] < 0.7


def test_a_disk_that_wants_large_reads_gets_whole_tiles(probe_of):
    found, _ = probe_of(lambda read_depth, request_bytes: 2e9 if request_bytes == 0 else 1e9)
    assert found.best == found.speeds[0] == DiskSpeed(4, 2e9, True)


def test_one_lucky_burst_does_not_count(probe_of):
    lucky = iter([9e9])

    def noisy(read_depth, request_bytes):
        return next(lucky, 2e9) if read_depth == 32 and request_bytes == 0 else 2e9

    found, disk = probe_of(noisy)
    assert max(speed.bytes_per_s for speed in found.speeds) == 2e9  # medians
    assert found.best == found.speeds[0]
    assert len(disk.bursts) > 3 * len(found.speeds)


def test_a_slow_disk_is_left_alone_in_time(probe_of):
    found, disk = probe_of(lambda read_depth, request_bytes: 8e7, seconds=0.6)
    assert found.best is None
    assert disk.clock[0] < 1.2 + 2 * 4 * TILE / 8e7  # one burst to begin with, one to end with
    assert probe_of(lambda read_depth, request_bytes: 8e7, seconds=6.0)[0].best.read_depth == 4


@pytest.fixture
def pack(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "a.adapmoe"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


FOUND = DiskProbe("io_uring", TILE, speeds((4, 1.0), (16, 2.0, 2 << 20)))


def record_of(pack):
    (path,) = (pack.parent / "cache" / "adapmoe").glob("*.disk.json")
    return path


def test_what_was_found_is_used_from_then_on(pack):
    assert read_settings(pack) == ReadSettings(4, 0, "default")
    assert remember(pack, FOUND) == FOUND.speeds[1]
    for reader in ("auto", "io_uring"):
        assert read_settings(pack, reader) == ReadSettings(16, 2 << 20, "probed", reader)
    assert read_settings(pack, "pread").source == "default"
    assert len(json.loads(record_of(pack).read_text())["speeds"]) == 2


def test_another_pack_or_disk_has_its_own(pack, monkeypatch):
    remember(pack, FOUND)
    (pack / "manifest.json").write_text("{ }")
    assert read_settings(pack).source == "default"
    (pack / "manifest.json").write_text("{}")
    here = os.statvfs(pack).f_fsid
    monkeypatch.setattr("os.statvfs", lambda path: type("S", (), {"f_fsid": here + 1}))
    assert read_settings(pack).source == "default"


def test_what_the_caller_gives_counts_alone(pack):
    remember(pack, FOUND)
    assert read_settings(pack, read_depth=3) == ReadSettings(3, 0, "given")
    assert read_settings(pack, request_bytes=4096) == ReadSettings(4, 4096, "given")
    assert read_settings(pack, request_bytes=0) == ReadSettings(4, 0, "given")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"[" * 60000,
        b'{"version": 3, "reader": "io_uring", "read_depth": 8, "request_bytes": 0}',
        b'{"version": 2, "reader": "io_uring", "read_depth": 0, "request_bytes": 0}',
        b'{"version": 2, "reader": "io_uring", "read_depth": true, "request_bytes": 0}',
        b'{"version": 2, "reader": "io_uring", "read_depth": 8, "request_bytes": 5}',
        b'{"version": 2, "reader": "io_uring", "read_depth": 8}',
        b" " * (5 << 20)
        + b'{"version": 2, "reader": "io_uring", "read_depth": 8, "request_bytes": 0}',
    ],
)
def test_a_damaged_record_is_ignored(pack, damage):
    remember(pack, FOUND)
    record_of(pack).write_bytes(damage)
    assert read_settings(pack) == ReadSettings()


def test_nothing_is_kept_of_the_page_cache_or_without_a_choice(pack):
    assert remember(pack, DiskProbe("pread", TILE, speeds((4, 9.0), direct=False))) is None
    assert remember(pack, DiskProbe("io_uring", TILE, [])) is None
    assert not (pack.parent / "cache").exists()


def test_the_doctor_says_what_was_found(pack, monkeypatch):
    finding = examine_depths(pack, FOUND)
    assert finding.status == "ok"
    assert "16 reads of 2048 KiB at a time by io_uring: 2.00 GB/s" in finding.seen
    assert "default of 4 has 1.00 GB/s; remembered" in finding.seen
    assert examine_depths(pack, DiskProbe("pread", TILE, [])).status == "note"
    assert examine_depths(pack, str(ReadError("gone"))).status == "warning"
    monkeypatch.setenv("XDG_CACHE_HOME", str(pack / "manifest.json"))
    assert "cannot be remembered" in examine_depths(pack, FOUND).seen
