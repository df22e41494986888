# SPDX-License-Identifier: Apache-2.0
"""Tiles read into a few staging places, checked there, and moved to their frames."""

import numpy as np
import pytest

from adapmoe import _testing
from support.packs.small_pack import complete_all

FRAMES = 18  # of the rig; places are numbered after them


def places(rig):
    return [frame - FRAMES for _, _, _, frame in rig.queued()]


def tiles(rig):
    return [(layer, expert, tile) for layer, expert, tile, _ in rig.queued()]


def test_tiles_pass_through_the_places_in_order(make_rig, small_pack):
    rig = make_rig(FRAMES, staging=2)
    hold, other = rig.acquire(0, 1), rig.acquire(0, 3)
    assert tiles(rig) == [(0, 1, 0), (0, 1, 1)]  # as many as there are places
    assert sorted(places(rig)) == [0, 1]
    rig.complete(1)
    assert tiles(rig) == [(0, 1, 0), (0, 1, 2)]  # the place of the one that is done
    assert sorted(places(rig)) == [0, 1]
    complete_all(rig)
    for tile in range(small_pack.tiles):
        np.testing.assert_array_equal(hold.tile(tile), small_pack.data[0, 1, tile])
        np.testing.assert_array_equal(other.tile(tile), small_pack.data[0, 3, tile])


def test_demand_goes_before_hints_which_take_half_of_the_places(make_rig):
    rig = make_rig(FRAMES, staging=4)
    rig.hint(1, 0, current=0)
    assert tiles(rig) == [(1, 0, 0), (1, 0, 1)]
    rig.acquire(0, 1)
    assert tiles(rig)[2:] == [(0, 1, 0), (0, 1, 1)]
    rig.complete(0)  # a hint's: demand is next
    assert tiles(rig) == [(1, 0, 1), (0, 1, 0), (0, 1, 1), (0, 1, 2)]
    complete_all(rig)
    assert rig.resident(1, 0)
    assert rig.resident(0, 1)


def test_a_hint_that_waits_for_a_place_is_taken_back(make_rig):
    rig = make_rig(FRAMES, staging=2)
    rig.hint(1, 0, current=0)
    rig.cancel_hints(1, [])
    assert tiles(rig) == [(1, 0, 0)]  # has begun
    rig.complete(0)
    assert rig.queued() == []
    assert rig.hint(1, 0, current=0)  # the other two, afresh
    complete_all(rig)
    assert rig.resident(1, 0)


def test_a_hint_that_waits_for_a_place_is_taken_up(make_rig, small_pack):
    rig = make_rig(FRAMES, staging=3)
    rig.hint(1, 0, current=0)  # one place of three
    assert tiles(rig) == [(1, 0, 0)]
    hold = rig.acquire(1, 0)
    assert tiles(rig) == [(1, 0, 0), (1, 0, 1), (1, 0, 2)]
    complete_all(rig)
    np.testing.assert_array_equal(hold.tile(2), small_pack.data[1, 0, 2])


def test_damage_is_found_before_a_tile_is_moved(make_rig, small_pack):
    rig = make_rig(FRAMES, staging=1)
    hold = rig.acquire(0, 0)
    rig.complete_damaged(0)
    complete_all(rig)
    with pytest.raises(
        _testing.StatusError, match=r"kPackError: .*layer 0, tile 0 at offset .*CRC"
    ):
        hold.tile(0)
    hold.release()
    hold = rig.acquire(0, 0)
    complete_all(rig)
    np.testing.assert_array_equal(hold.tile(0), small_pack.data[0, 0, 0])


def test_a_failed_read_gives_its_place_back(make_rig, small_pack):
    rig = make_rig(FRAMES, staging=1)
    hold = rig.acquire(0, 0)
    for _ in range(small_pack.tiles):
        rig.fail(0, "injected")
    with pytest.raises(_testing.StatusError, match="kReadError: injected"):
        hold.tile(1)
    hold.release()
    hold = rig.acquire(0, 0)
    complete_all(rig)
    np.testing.assert_array_equal(hold.tile(1), small_pack.data[0, 0, 1])


def test_a_tile_that_cannot_be_moved_is_an_error(make_rig, small_pack):
    rig = make_rig(FRAMES, staging=2)
    rig.refuse_landing(True)
    hold = rig.acquire(2, 2)
    complete_all(rig)
    with pytest.raises(_testing.StatusError, match="kUnavailable: injected"):
        hold.tile(0)
    hold.release()
    rig.refuse_landing(False)
    hold = rig.acquire(2, 2)
    complete_all(rig)
    np.testing.assert_array_equal(hold.tile(0), small_pack.data[2, 2, 0])


@pytest.mark.parametrize("reader", ["pread", "io_uring"])
@pytest.mark.parametrize("staging", [1, 3])
def test_the_right_bytes_from_real_readers(small_pack, reader, staging):
    rig = _testing.CacheRig(
        small_pack.path, 8, reader=reader, readers=2, direct_io=True, staging=staging
    )
    if rig.reader_name != reader:
        pytest.skip(f"{reader} cannot be used here")
    rng = np.random.default_rng(staging)
    for step in range(300):
        layer, expert = step % 3, int(rng.integers(4))
        rig.hint((layer + 1) % 3, int(rng.integers(4)), current=layer)
        rig.cancel_hints((layer + 1) % 3, [int(rng.integers(4))])
        hold = rig.acquire(layer, expert)
        for tile in range(int(rng.integers(4))):  # the rest may be abandoned
            np.testing.assert_array_equal(hold.tile(tile), small_pack.data[layer, expert, tile])
        hold.release()
