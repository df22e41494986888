# SPDX-License-Identifier: Apache-2.0
"""ExpertStream: residents first, then the missing experts ascending, as frames allow."""

from hypothesis import given
from hypothesis import strategies as st

from adapmoe import _testing
from support.packs.small_pack import complete_all, load


def drain(rig, stream):
    """Experts in the order in which they are handed out."""
    order = []
    while (hold := stream.next()) is not None:
        complete_all(rig)
        order.append(hold.expert)
        hold.tile(2)
        hold.release()
    return order


def test_residents_come_first_and_reads_of_the_rest_have_begun(small_pack):
    rig = _testing.CacheRig(small_pack.path, 12)
    load(rig, 1, 0)
    load(rig, 1, 2)
    stream = _testing.StreamRig(rig, 1, [0, 1, 2, 3])
    assert stream.residents() == [0, 2]
    assert [q[1:3] for q in rig.queued()] == [(e, t) for e in (1, 3) for t in range(3)]
    stream.release_residents()
    assert drain(rig, stream) == [1, 3]


def test_residents_are_not_evicted_for_the_rest(small_pack):
    rig = _testing.CacheRig(small_pack.path, 7)
    load(rig, 0, 1)
    load(rig, 0, 3)
    stream = _testing.StreamRig(rig, 0, [0, 1, 2, 3])
    assert stream.residents() == [1, 3]
    assert rig.queued() == []  # no frames while the residents are held
    assert rig.resident(0, 1)
    assert rig.resident(0, 3)
    stream.release_residents()
    assert drain(rig, stream) == [0, 2]


def test_dropping_a_stream_gives_its_holds_back(small_pack):
    rig = _testing.CacheRig(small_pack.path, 6)
    load(rig, 0, 0)
    stream = _testing.StreamRig(rig, 0, [0, 1])
    assert rig.acquire(2, 2) is None
    complete_all(rig)
    del stream
    assert rig.acquire(2, 2) is not None


@given(
    frames=st.integers(3, 14),
    layers=st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=1, max_size=8),
)
def test_every_expert_is_handed_out_once(small_pack, frames, layers):
    rig = _testing.CacheRig(small_pack.path, frames)
    for step, experts in enumerate(layers):
        layer, wanted = step % small_pack.layers, sorted(experts)
        before = [e for e in wanted if rig.resident(layer, e)]
        stream = _testing.StreamRig(rig, layer, wanted)
        assert stream.residents() == before
        stream.release_residents()
        assert drain(rig, stream) == [e for e in wanted if e not in before]
    assert rig.stats()[0] == sum(len(experts) for experts in layers)
