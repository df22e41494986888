# SPDX-License-Identifier: Apache-2.0
"""Replay of routing traces, Belady's optimum, and the dynamic programme for layer shares."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe import _core

LAYERS, EXPERTS = 3, 4
POLICIES = ["next-use", "farthest-layer", "lru", "lfru", "least-stale"]
# Figures of Mixtral-8x7B in the AdapMoE release: look-ahead accuracy and single-expert ratio.
ACCURACY = [0, 0.566, 0.721, 0.789, 0.866, 0.859, 0.830, 0.840, 0.849, 0.801, 0.898, 0.898, 0.893]
ACCURACY += [0.910, 0.925, 0.881, 0.915, 0.939, 0.905, 0.879, 0.876, 0.893, 0.879, 0.876, 0.888]
ACCURACY += [0.884, 0.922, 0.913, 0.886, 0.900, 0.903, 0.850]
SINGLE = [0.0000, 0.0348, 0.0049, 0.0009, 0.0004, 0.0025, 0.0079, 0.0341, 0.0345, 0.0491, 0.0130]
SINGLE += [0.0196, 0.0296, 0.0055, 0.0155, 0.0284, 0.0639, 0.0710, 0.1407, 0.2803, 0.2987, 0.3651]
SINGLE += [0.4145, 0.3556, 0.4952, 0.5210, 0.5479, 0.6180, 0.7800, 0.8840, 0.9754, 0.8577]


def traces(max_passes=6, experts_at_once=2):
    layer = st.sets(st.integers(0, EXPERTS - 1), min_size=1, max_size=experts_at_once)
    passes = st.lists(st.lists(layer, min_size=LAYERS, max_size=LAYERS), max_size=max_passes)
    return passes.map(
        lambda rows: [
            (p, i, sorted(chosen)) for p, row in enumerate(rows) for i, chosen in enumerate(row)
        ]
    )


def replay(trace, capacity, policy, floors=()):
    return _core.replay_trace(trace, LAYERS, EXPERTS, capacity, policy, list(floors))


def best_hits(accesses, capacity):
    """Brute force: the most hits that any replacement, bypass included, can have."""
    states = {frozenset(): 0}
    for expert in accesses:
        following = {}
        for resident, hits in states.items():
            if expert in resident:
                options = [(resident, hits + 1)]
            else:
                options = [(resident, hits)]
                if len(resident) < capacity:
                    options.append((resident | {expert}, hits))
                options += [((resident - {out}) | {expert}, hits) for out in resident]
            for state, total in options:
                following[state] = max(following.get(state, -1), total)
        states = following
    return max(states.values())


@given(trace=traces(max_passes=3), capacity=st.integers(1, 4))
def test_belady_is_the_optimum(trace, capacity):
    accesses = [(layer, e) for _, layer, experts in trace for e in experts]
    assert replay(trace, capacity, "belady") == (len(accesses), best_hits(accesses, capacity))


@pytest.mark.parametrize("policy", POLICIES)
@given(trace=traces(), capacity=st.integers(2, LAYERS * EXPERTS))
def test_no_policy_beats_belady_and_enough_room_never_evicts(policy, trace, capacity):
    visits, hits = replay(trace, capacity, policy)
    assert hits <= replay(trace, capacity, "belady")[1] or capacity < 2
    assert visits == sum(len(experts) for _, _, experts in trace)
    everything = replay(trace, LAYERS * EXPERTS, policy)
    distinct = {(layer, e) for _, layer, experts in trace for e in experts}
    assert everything == (visits, visits - len(distinct))


def test_belady_counts_from_a_pass_on_and_knows_what_was_before():
    trace = [(p, 0, [e]) for p, e in enumerate((0, 1, 0, 2, 1, 0))]

    def counted(first):
        return _core.replay_trace(trace, LAYERS, EXPERTS, 2, "belady", count_from=first)

    # 0 and 1 are kept, and 2 is passed by.
    assert [counted(first) for first in range(7)] == [
        (6, 3),
        (5, 3),
        (4, 3),
        (3, 2),
        (2, 2),
        (1, 1),
        (0, 0),
    ]
    with pytest.raises(ValueError, match="count_from"):
        _core.replay_trace(trace, LAYERS, EXPERTS, 2, "lru", count_from=1)


def test_bad_traces_are_refused():
    for trace in ([(0, LAYERS, [0])], [(0, 0, [EXPERTS])], [(0, -1, [0])]):
        with pytest.raises(ValueError, match="outside"):
            replay(trace, 2, "lru")
    with pytest.raises(ValueError, match="policy"):
        replay([(0, 0, [0])], 2, "magic")
    with pytest.raises(ValueError, match="floors"):
        replay([(0, 0, [0])], 2, "lru", [1])


def test_dynamic_programme_gives_the_release_s_shares():
    assert _core.allocate_layers(ACCURACY, SINGLE, 8, 64) == [8, 4, *[3] * 5, *[2] * 12, *[1] * 13]
    larger = [8, 7, 6, 6, *[5] * 14, 4, 4, 4, 3, 3, 3, 2, 2, *[1] * 6]
    assert _core.allocate_layers(ACCURACY, SINGLE, 8, 128) == larger


@given(
    profile=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3),
    total=st.integers(0, 13),
)
def test_dynamic_programme_is_the_best_of_all_splits(profile, total):
    def loads(accuracy, single, cached):
        n, t = EXPERTS, cached
        both = (n - t) * (n - t - 1) / (n * (n - 1))
        one = 2 * (n - t) * t / (n * (n - 1))
        single_loads = (1 - t / n) * (1 - accuracy)
        pair_loads = 2 * both * (1 - accuracy) + both * accuracy + one * (1 - accuracy)
        return single * single_loads + (1 - single) * pair_loads

    def cost(split):
        return sum(loads(a, r, t) for (a, r), t in zip(profile, split, strict=True))

    found = _core.allocate_layers(*map(list, zip(*profile, strict=True)), EXPERTS, total)
    total = min(total, len(profile) * EXPERTS)
    if total < len(profile):
        assert found == []
        return
    splits = itertools.product(range(1, EXPERTS + 1), repeat=len(profile))
    assert sum(found) == total
    assert cost(found) <= min(cost(s) for s in splits if sum(s) == total) + 1e-12


def test_uniform_shares():
    assert _core.uniform_layers(3, 4, 7) == [3, 2, 2]
    assert _core.uniform_layers(3, 4, 99) == [4, 4, 4]
