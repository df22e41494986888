# SPDX-License-Identifier: Apache-2.0
"""Reads that fail, bytes that are damaged, and when checksums are looked at."""

import re

import numpy as np
import pytest

from adapmoe import _testing
from support.packs.small_pack import complete_all, load, write_small_pack


def test_a_failed_read_is_an_error_and_is_read_again(make_rig, small_pack):
    rig = make_rig(frames=4)
    hold = rig.acquire(2, 1)
    rig.complete(0)
    rig.fail(0, "the disk is on fire")
    rig.complete(0)
    np.testing.assert_array_equal(hold.tile(0), small_pack.data[2, 1, 0])
    with pytest.raises(_testing.StatusError, match="kReadError: the disk is on fire"):
        hold.tile(1)
    np.testing.assert_array_equal(hold.tile(2), small_pack.data[2, 1, 2])
    assert not rig.resident(2, 1)

    hold.release()
    hold = rig.acquire(2, 1)
    assert [q[2] for q in rig.queued()] == [0, 1, 2]
    complete_all(rig)
    np.testing.assert_array_equal(hold.tile(1), small_pack.data[2, 1, 1])


@pytest.mark.parametrize("last", ["ok", "failed"])
def test_an_abandoned_failure_is_not_told_to_the_next(make_rig, small_pack, last):
    rig = make_rig(frames=6)
    rig.acquire(2, 1).release()
    rig.fail(0, "no answer")
    rig.complete(0)
    if last == "ok":
        rig.complete(0)
    else:
        rig.fail(0, "no answer")
    hold = rig.acquire(2, 1)
    assert [q[2] for q in rig.queued()] == [0, 1, 2]
    complete_all(rig)
    np.testing.assert_array_equal(hold.tile(0), small_pack.data[2, 1, 0])


def test_a_new_hold_waits_for_the_rest_of_an_abandoned_failure(make_rig, small_pack):
    rig = make_rig(frames=6)
    rig.acquire(2, 1).release()
    rig.fail(1, "no answer")

    def finish_one():
        rig.complete(0)
        return False

    hold = rig.acquire(2, 1, finish_one)
    assert [q[2] for q in rig.queued()] == [0, 1, 2]
    complete_all(rig)
    np.testing.assert_array_equal(hold.tile(1), small_pack.data[2, 1, 1])


@pytest.fixture
def damaged_pack(tmp_path):
    """A pack with a flipped bit in tile 1 of expert 2 of layer 1; returns (folder, offset)."""
    folder = tmp_path / "damaged.adapmoe"
    write_small_pack(folder, 3, 4, 3)
    file = folder / "experts.safetensors"
    content = bytearray(file.read_bytes())
    offset = 8 + int.from_bytes(content[:8], "little") + ((1 * 4 + 2) * 3 + 1) * 4096
    content[offset + 4095] ^= 64
    file.write_bytes(content)
    return folder, offset


@pytest.mark.parametrize("verify", ["always", "first"])
def test_a_damaged_tile_is_named(damaged_pack, verify):
    folder, offset = damaged_pack
    rig = _testing.CacheRig(str(folder), 4, verify=verify)
    for _ in range(2):  # reading it again does not make it better
        hold = rig.acquire(1, 2)
        complete_all(rig)
        file = re.escape(str(folder / "experts.safetensors"))
        named = rf"kPackError: {file}: expert 2 of layer 1, tile 1 at offset {offset}: CRC32C is "
        with pytest.raises(_testing.StatusError, match=named + r"[0-9a-f]+, expected [0-9a-f]+;"):
            hold.tile(1)
        hold.release()
        assert not rig.resident(1, 2)


@pytest.mark.parametrize(
    ("verify", "first_read", "second_read"),
    [("always", False, False), ("first", False, True), ("never", True, True)],
)
def test_when_checksums_are_checked(make_rig, verify, first_read, second_read):
    """Is a damaged read taken for good, the first time a tile is read and after a good read?"""
    taken = []
    for good_reads in (0, 1):
        rig = make_rig(frames=3, verify=verify)
        for _ in range(good_reads):
            load(rig, 0, 0)
            load(rig, 0, 1)
        hold = rig.acquire(0, 0)
        for _ in range(3):
            rig.complete_damaged(0)
        taken.append(rig.resident(0, 0))
        hold.release()
    assert taken == [first_read, second_read]
