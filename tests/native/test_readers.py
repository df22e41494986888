# SPDX-License-Identifier: Apache-2.0
"""The readers that open files: the right bytes, errors, hints, and closing at any time."""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from adapmoe import _testing
from support.packs.small_pack import write_small_pack


def make_rig(folder, frames, reader, **options):
    rig = _testing.CacheRig(str(folder), frames, reader=reader, direct_io=True, **options)
    if rig.reader_name != reader:
        pytest.skip(f"{reader} cannot be used here")
    return rig


@pytest.fixture(params=["pread", "io_uring"])
def reader(request):
    return request.param


@pytest.mark.parametrize("policy", ["lru", "farthest-layer"])
@pytest.mark.parametrize("frames", [3, 4, 8, 36])
def test_readers_bring_the_right_bytes(small_pack, reader, policy, frames):
    rig = make_rig(small_pack.path, frames, reader, policy=policy, readers=4)
    rng = np.random.default_rng(frames)
    for step in range(400):
        layer, expert = step % 3, int(rng.integers(4))
        hold = rig.acquire(layer, expert)
        for tile in range(int(rng.integers(4))):  # the rest may be abandoned
            np.testing.assert_array_equal(hold.tile(tile), small_pack.data[layer, expert, tile])
        hold.release()
    visits, hits, _, _ = rig.stats()
    assert visits == 400
    assert (hits > 300) if frames == 36 else (hits < 300)


@pytest.fixture(scope="module")
def large_tiles(tmp_path_factory):
    """(folder, data) of a pack with tiles of six pages."""
    folder = tmp_path_factory.mktemp("large") / "tiles.adapmoe"
    data = write_small_pack(folder, 2, 4, 3, hidden=112)
    assert data.shape[-1] == 6 * 4096
    return folder, data


@pytest.mark.parametrize("request_bytes", [4096, 16384, 1 << 20])
@pytest.mark.parametrize("readers", [1, 3, 16])
def test_pieces_make_the_whole(large_tiles, reader, readers, request_bytes):
    folder, data = large_tiles
    rig = make_rig(folder, 5, reader, readers=readers, request_bytes=request_bytes)
    rng = np.random.default_rng(readers)
    for step in range(100):
        layer, expert = step % 2, int(rng.integers(4))
        rig.hint(1 - layer, expert, current=layer)
        hold = rig.acquire(layer, expert)
        for tile in range(3):
            np.testing.assert_array_equal(hold.tile(tile), data[layer, expert, tile])
        hold.release()
        rig.cancel_hints(1 - layer, [])
    assert rig.stats()[1] < 100  # it did read


def test_the_end_of_a_file_within_a_tile_is_told_once(tmp_path, reader):
    folder = tmp_path / "short.adapmoe"
    write_small_pack(folder, 2, 4, 3, hidden=112)
    file = folder / "experts.safetensors"
    rig = make_rig(folder, 5, reader, readers=4, request_bytes=4096)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 3 * 4096)  # half of the last tile
    for _ in range(2):  # and again, once the failed tiles are given up
        hold = rig.acquire(1, 3)
        assert hold.tile(1).size == 6 * 4096
        with pytest.raises(_testing.StatusError, match=r"kReadError: .*the file ends there"):
            hold.tile(2)
        hold.release()


def pinned_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmPin:"))
    return int(line.split()[1]) * 1024


def registered_rig(folder, frames, **options):
    rig = make_rig(folder, frames, "io_uring", registered=True, **options)
    if "kernel" in rig.registration[2]:
        pytest.skip(rig.registration[2])
    return rig


@pytest.mark.parametrize("request_bytes", [0, 16384])
def test_registered_frames_bring_the_right_bytes(large_tiles, request_bytes):
    folder, data = large_tiles
    before = pinned_bytes()
    rig = registered_rig(folder, 12, request_bytes=request_bytes, capacity=18)
    assert rig.registration == (True, 0, "")
    tile = data.shape[-1]
    used = set()
    rng = np.random.default_rng(2)

    def work(rig, steps):
        for step in range(steps):
            layer, expert = step % 2, int(rng.integers(4))
            hold = rig.acquire(layer, expert)
            for t in range(3):
                np.testing.assert_array_equal(hold.tile(t), data[layer, expert, t])
            hold.release()
            used.add((layer, expert))

    work(rig, 60)
    assert rig.registration == (True, 12, "")
    assert pinned_bytes() - before == 12 * tile
    rig.resize(4)  # memory of parked frames is let go, and so really given back
    assert rig.registration == (True, 4, "")
    assert pinned_bytes() - before == 4 * tile
    work(rig, 30)
    rig.resize(18)  # parked frames have new memory: reading into the old pages would show
    work(rig, 60)
    assert rig.registration == (True, 18, "")
    assert len(used) == 8
    del rig
    assert pinned_bytes() == before


def test_pread_says_that_it_registers_nothing(small_pack):
    rig = make_rig(small_pack.path, 4, "pread", registered=True)
    assert rig.registration == (False, 0, "only io_uring registers, and pread is used")


@pytest.mark.parametrize("readers", [1, 2, 16])
def test_hints_are_read_taken_back_and_taken_up(small_pack, reader, readers):
    rig = make_rig(small_pack.path, 36, reader, readers=readers)
    for expert in range(4):
        assert rig.hint(1, expert, current=0)
    rig.cancel_hints(1, [1, 2])
    for expert in (2, 1, 0):
        hold = rig.acquire(1, expert)
        np.testing.assert_array_equal(hold.tile(2), small_pack.data[1, expert, 2])
        hold.release()


@pytest.mark.parametrize("readers", [1, 3])
def test_closing_drops_reads_under_way(small_pack, reader, readers):
    for wait in (0.0, 0.0, 0.0005, 0.002):
        rig = make_rig(small_pack.path, 36, reader, readers=readers)
        for expert in range(4):
            rig.acquire(0, expert).release()
            rig.hint(1, expert, current=0)
        time.sleep(wait)
        del rig


def test_a_truncated_file_is_named(tmp_path, reader):
    folder = tmp_path / "short.adapmoe"
    write_small_pack(folder, 3, 4, 3)
    file = folder / "experts.safetensors"
    rig = make_rig(folder, 4, reader)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 5000)
    hold = rig.acquire(2, 3)
    assert hold.tile(0).size == 4096
    # Both tiles have the error of the one that failed first: 3192 bytes of tile 1 are there.
    ends = r"(the file ends there|only 3192 bytes came) \(3 attempts\)"
    for tile in (2, 1):
        with pytest.raises(
            _testing.StatusError, match=rf"kReadError: {re.escape(str(file))}: .*offset.*{ends}"
        ):
            hold.tile(tile)


def test_io_uring_is_for_o_direct_only(small_pack):
    """Through the page cache it would read on the thread that submits."""
    rig = _testing.CacheRig(small_pack.path, 4, reader="io_uring", direct_io=False)
    assert rig.reader_name == "pread"


def test_an_unknown_reader_is_named(small_pack):
    with pytest.raises(_testing.StatusError, match=r'reader="mmap": expected one of auto'):
        _testing.CacheRig(small_pack.path, 4, reader="mmap")
