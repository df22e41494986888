# SPDX-License-Identifier: Apache-2.0
"""Reads ahead of need: what hints may do, and that nothing of it outlives its use."""

import numpy as np

from support.packs.small_pack import complete_all, load


def test_a_hint_reads_in_the_background_and_is_then_a_hit(make_rig, small_pack):
    rig = make_rig(frames=7)
    assert rig.hint(1, 2, current=0)
    assert not rig.hint(1, 2, current=0)  # on its way
    complete_all(rig)
    assert rig.resident(1, 2)
    assert not rig.hint(1, 2, current=0)  # there
    hold = rig.acquire(1, 2)
    np.testing.assert_array_equal(hold.tile(0), small_pack.data[1, 2, 0])
    assert rig.stats()[:2] == (1, 1)


def test_a_hint_evicts_only_what_comes_up_later(make_rig):
    rig = make_rig(frames=6)  # two experts
    load(rig, 0, 0)
    load(rig, 1, 0)
    assert rig.hint(2, 1, current=0)  # of the layer computed now: comes up last
    complete_all(rig)
    assert not rig.resident(0, 0)
    assert rig.resident(1, 0)  # comes up before layer 2
    assert not rig.hint(1, 3, current=1)  # nothing comes up later than that
    assert rig.resident(2, 1)


def test_a_hint_never_takes_a_held_expert(make_rig):
    rig = make_rig(frames=3)
    hold = rig.acquire(0, 0)
    complete_all(rig)
    assert not rig.hint(1, 0, current=0)
    hold.release()
    assert rig.hint(1, 0, current=0)


def test_a_hint_under_way_is_taken_up_by_the_demand(make_rig, small_pack):
    rig = make_rig(frames=7)
    assert rig.hint(1, 1, current=0)
    hold = rig.acquire(1, 1)
    assert len(rig.queued()) == small_pack.tiles  # not read twice
    complete_all(rig)
    np.testing.assert_array_equal(hold.tile(2), small_pack.data[1, 1, 2])
    assert rig.stats()[:2] == (1, 0)


def test_a_failed_hint_is_no_error_for_the_demand(make_rig, small_pack):
    rig = make_rig(frames=7)
    assert rig.hint(1, 1, current=0)
    for _ in range(small_pack.tiles):
        rig.fail(0, "injected")
    hold = rig.acquire(1, 1)
    complete_all(rig)
    np.testing.assert_array_equal(hold.tile(0), small_pack.data[1, 1, 0])


def test_warming_fills_free_frames_and_evicts_nothing(make_rig):
    rig = make_rig(frames=7)
    assert rig.warm(0, 0)
    assert rig.warm(2, 3)
    assert not rig.warm(1, 1)  # one frame left, three needed
    complete_all(rig)
    assert rig.resident(0, 0)
    assert rig.resident(2, 3)


def test_eviction_by_tile_keeps_the_first_tiles(make_rig, small_pack):
    rig = make_rig(frames=8, evict_tiles=True)  # two experts and two tiles
    for expert in (0, 1):
        load(rig, 0, expert)
    load(rig, 1, 0)  # needs one frame more than is free
    again = rig.acquire(0, 0)
    assert [q[:3] for q in rig.queued()] == [(0, 0, 2)]  # only the tile that had gone
    np.testing.assert_array_equal(again.tile(0), small_pack.data[0, 0, 0])
    complete_all(rig)
    np.testing.assert_array_equal(again.tile(2), small_pack.data[0, 0, 2])
