# SPDX-License-Identifier: Apache-2.0
"""Holding every expert at once: only when each tile is ready, and without counting a visit."""

import itertools

import numpy as np
import pytest

from support.packs.small_pack import complete_all, load


@pytest.fixture
def full_rig(make_rig, small_pack):
    rig = make_rig(frames=small_pack.layers * small_pack.experts * small_pack.tiles)
    for layer, expert in itertools.product(range(small_pack.layers), range(small_pack.experts)):
        load(rig, layer, expert)
    return rig


def tiles_of(hold):
    return np.stack([hold.tile(i) for i in range(len(hold))])


def test_it_has_every_tile_in_order_and_counts_nothing(full_rig, small_pack):
    before = full_rig.stats()
    hold = full_rig.hold_every()
    np.testing.assert_array_equal(tiles_of(hold).reshape(small_pack.data.shape), small_pack.data)
    assert full_rig.stats() == before


def test_it_is_refused_until_the_last_tile_is_ready(make_rig):
    rig = make_rig(frames=36)
    for expert in range(12):
        assert rig.hold_every() is None
        rig.warm(*divmod(expert, 4))
    while rig.queued():
        assert rig.hold_every() is None
        rig.complete(0)
    assert rig.hold_every() is not None


def test_a_tile_that_failed_is_not_there(full_rig):
    full_rig.resize(33)  # one expert goes
    full_rig.resize(36)
    gone = next(
        (layer, e) for layer in range(3) for e in range(4) if not full_rig.resident(layer, e)
    )
    hold = full_rig.acquire(*gone)
    full_rig.fail(0, "unplugged")
    complete_all(full_rig)
    assert full_rig.hold_every() is None
    hold.release()
    assert full_rig.hold_every() is None
    load(full_rig, *gone)
    assert full_rig.hold_every() is not None


def test_placement_tells_whether_a_tile_has_moved(full_rig, small_pack):
    first = full_rig.hold_every()
    assert full_rig.acquire(1, 1) is not None  # needs no frame, and moves nothing
    assert full_rig.hold_every().placement == first.placement
    first.release()
    full_rig.resize(30)
    assert full_rig.hold_every() is None
    full_rig.resize(36)
    for layer, expert in itertools.product(range(3), range(4)):
        load(full_rig, layer, expert)
    again = full_rig.hold_every()
    assert again.placement != first.placement
    np.testing.assert_array_equal(tiles_of(again).reshape(small_pack.data.shape), small_pack.data)
