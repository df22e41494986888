# SPDX-License-Identifier: Apache-2.0
"""ExpertCache, one rule at a time, over reads that finish when the test says so."""

import numpy as np
import pytest

from adapmoe import _testing
from support.packs.small_pack import complete_all, load


def stop():
    """An interrupt that stops the wait."""
    return True


def test_a_miss_reads_its_tiles_ascending_and_then_is_resident(make_rig, small_pack):
    rig = make_rig(frames=7)
    hold = rig.acquire(1, 2)
    assert [q[:3] for q in rig.queued()] == [(1, 2, 0), (1, 2, 1), (1, 2, 2)]
    assert not rig.resident(1, 2)
    complete_all(rig)
    assert rig.resident(1, 2)
    for tile in range(3):
        np.testing.assert_array_equal(hold.tile(tile), small_pack.data[1, 2, tile])


def test_a_tile_is_there_before_the_next_one_is_read(make_rig, small_pack):
    rig = make_rig(frames=7)
    hold = rig.acquire(0, 0)
    for tile in range(3):
        with pytest.raises(_testing.StatusError, match="kCancelled"):
            hold.tile(tile, stop)
        rig.complete(0)
        np.testing.assert_array_equal(hold.tile(tile), small_pack.data[0, 0, tile])


def test_waiting_for_a_tile_ends_when_its_read_does(make_rig, small_pack):
    rig = make_rig(frames=7)
    hold = rig.acquire(0, 1)

    def finish_one():
        rig.complete(0)
        return False

    np.testing.assert_array_equal(hold.tile(2, finish_one), small_pack.data[0, 1, 2])
    assert rig.queued() == []
    assert rig.stats()[3] > 0  # the wait is counted as stall


def test_a_held_expert_is_never_evicted(make_rig, small_pack):
    rig = make_rig(frames=7)
    first = rig.acquire(0, 0)
    complete_all(rig)
    for expert in (1, 2, 3, 1):
        load(rig, 1, expert)
        assert rig.resident(0, 0)
        np.testing.assert_array_equal(first.tile(1), small_pack.data[0, 0, 1])


def test_acquire_is_refused_while_held_experts_fill_the_frames(make_rig):
    rig = make_rig(frames=7)
    holds = [rig.acquire(0, 0), rig.acquire(0, 1)]
    complete_all(rig)
    assert rig.acquire(0, 2) is None
    assert rig.queued() == []
    assert rig.stats()[0] == 2  # a refused acquire is no visit
    holds[0].release()
    assert rig.acquire(0, 2) is not None
    assert not rig.resident(0, 0)


def test_one_expert_may_be_held_twice(make_rig):
    rig = make_rig(frames=4)
    first, second = rig.acquire(0, 0), rig.acquire(0, 0)
    assert len(rig.queued()) == 3
    complete_all(rig)
    first.release()
    assert rig.acquire(0, 1) is None
    second.release()
    assert rig.acquire(0, 1) is not None


@pytest.mark.parametrize(("policy", "victim"), [("lru", (0, 0)), ("farthest-layer", (1, 1))])
def test_the_policy_chooses_who_goes(make_rig, policy, victim):
    rig = make_rig(frames=9, policy=policy)
    experts = [(0, 0), (2, 3), (1, 1)]  # used in this order
    for expert in experts:
        load(rig, *expert)
    load(rig, 1, 0)
    assert [e for e in experts if not rig.resident(*e)] == [victim]


def test_visits_hits_and_bytes_are_counted(make_rig, small_pack):
    rig = make_rig(frames=9)
    for layer, expert in [(0, 0), (0, 1), (0, 0), (0, 0)]:
        hold = rig.acquire(layer, expert)
        complete_all(rig)
        hold.release()
    half_read = rig.acquire(0, 2)
    rig.complete(0)
    rig.acquire(0, 2)  # under way is not a hit
    assert rig.stats()[:3] == (6, 2, 7 * small_pack.tile_bytes)
    half_read.release()


def test_an_abandoned_read_becomes_resident(make_rig):
    rig = make_rig(frames=4)
    rig.acquire(0, 0).release()
    assert len(rig.queued()) == 3
    complete_all(rig)
    assert rig.resident(0, 0)
    assert rig.acquire(0, 0) is not None
    assert rig.stats()[:2] == (2, 1)


def test_acquire_waits_for_frames_of_abandoned_reads(make_rig):
    rig = make_rig(frames=4)
    rig.acquire(0, 0).release()
    with pytest.raises(_testing.StatusError, match="kCancelled"):
        rig.acquire(1, 1, stop)
    assert rig.stats()[0] == 1  # a cancelled acquire is no visit
    finished = []

    def finish_one():
        finished.append(rig.queued()[0][:3])
        rig.complete(0)
        return False

    hold = rig.acquire(1, 1, finish_one)
    assert finished == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
    assert not rig.resident(0, 0)
    complete_all(rig)
    assert rig.resident(1, 1)
    hold.release()


def test_frames_of_abandoned_failed_reads_come_back(make_rig):
    rig = make_rig(frames=4)
    for _ in range(5):
        rig.acquire(0, 0).release()
        rig.complete(0)
        rig.fail(1, "gone")
        rig.fail(0, "gone")
    assert rig.acquire(1, 0) is not None


def test_an_error_in_the_interrupt_reaches_the_caller(make_rig):
    rig = make_rig(frames=4)
    hold = rig.acquire(0, 0)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hold.tile(0, interrupt)
    complete_all(rig)
    hold.tile(0)


def test_shrinking_evicts_and_growing_brings_frames_back(make_rig, small_pack):
    rig = make_rig(frames=9, policy="lru", capacity=12)
    for expert in range(3):
        load(rig, 1, expert)
    rig.resize(4)
    assert [rig.resident(1, expert) for expert in range(3)] == [False, False, True]
    load(rig, 0, 0)
    assert not rig.resident(1, 2)
    rig.resize(12)
    for expert in range(3):
        load(rig, 1, expert)
    assert rig.resident(0, 0)
    np.testing.assert_array_equal(rig.acquire(0, 0).tile(2), small_pack.data[0, 0, 2])


def test_closing_drops_reads_under_way(make_rig, small_pack):
    rig = make_rig(frames=9)
    rig.acquire(0, 0).release()
    del rig
