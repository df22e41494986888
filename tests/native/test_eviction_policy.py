# SPDX-License-Identifier: Apache-2.0
"""Eviction policies against naive ones, and what is known about cyclic traces."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe import _testing

LAYERS, EXPERTS, TOP_K, SLOTS = 8, 8, 2, 13


def naive_lru(candidates, layer, layers):
    return min(range(len(candidates)), key=lambda i: candidates[i][2])


def layers_until(layer, now, layers):
    """Count forward from the layer after `now` until `layer` is computed."""
    steps, at = 0, (now + 1) % layers
    while at != layer:
        steps, at = steps + 1, (at + 1) % layers
    return steps


def naive_farthest_layer(candidates, layer, layers):
    def key(i):
        return -layers_until(candidates[i][0], layer, layers), candidates[i][2]

    return min(range(len(candidates)), key=key)


NAIVE = {"lru": naive_lru, "farthest-layer": naive_farthest_layer}


@st.composite
def situations(draw):
    """(candidates, layer, layers): experts with distinct last uses, as acquire counts are."""
    layers = draw(st.integers(1, 12))
    ids = draw(
        st.lists(
            st.tuples(st.integers(0, layers - 1), st.integers(0, 7)),
            min_size=1,
            max_size=20,
            unique=True,
        )
    )
    uses = draw(st.permutations(range(1, len(ids) + 1)))
    candidates = [(*at, use, 0, 1) for at, use in zip(ids, uses, strict=True)]
    return candidates, draw(st.integers(0, layers - 1)), layers


@pytest.mark.parametrize("policy", NAIVE)
@given(situation=situations())
def test_policy_equals_the_naive_one(policy, situation):
    candidates, layer, layers = situation
    found = _testing.choose_victim(policy, layers, candidates, layer)
    assert found == NAIVE[policy](candidates, layer, layers)


def test_golden_victims():
    uses = [(0, 1, 40), (1, 1, 10), (2, 1, 30), (2, 5, 20), (3, 1, 50)]
    candidates = [(*use, 0, 1) for use in uses]
    choices = {
        layer: _testing.choose_victim("farthest-layer", 4, candidates, layer) for layer in range(4)
    }
    assert choices == {0: 0, 1: 1, 2: 3, 3: 4}  # the layer computed now comes up last
    assert _testing.choose_victim("lru", 4, candidates, 0) == 1


def test_unknown_policy_is_named():
    with pytest.raises(
        _testing.StatusError, match=r"kInvalidArgument.*\"fifo\".*next-use, farthest-layer, lru"
    ):
        _testing.choose_victim("fifo", 4, [(0, 0, 1, 0, 1)], 0)


def hit_rate(policy, tokens):
    """Whole experts in SLOTS slots; a layer's experts are held while they are computed."""
    last_use, clock, hits, visits = {}, 0, 0, 0
    for token in tokens:
        for layer, experts in enumerate(token):
            held = {(layer, e) for e in experts}
            for expert in sorted(held):
                visits, clock = visits + 1, clock + 1
                hits += expert in last_use
                if expert not in last_use and len(last_use) == SLOTS:
                    candidates = [(*e, use, 0, 1) for e, use in last_use.items() if e not in held]
                    victim = _testing.choose_victim(policy, LAYERS, candidates, layer)
                    del last_use[candidates[victim][:2]]
                last_use[expert] = clock
    return hits / visits


def random_tokens(count):
    rng = random.Random(8)
    return [[rng.sample(range(EXPERTS), TOP_K) for _ in range(LAYERS)] for _ in range(count)]


def test_below_one_cycle_lru_never_hits():
    assert SLOTS < LAYERS * TOP_K
    assert hit_rate("lru", [[(0, 1)] * LAYERS] * 50) == 0
    assert hit_rate("lru", random_tokens(200)) == 0


def test_below_one_cycle_farthest_layer_hits():
    same_experts = hit_rate("farthest-layer", [[(0, 1)] * LAYERS] * 50)
    assert same_experts > 0.6
    assert 0.15 < hit_rate("farthest-layer", random_tokens(400)) < 0.25


def test_lfru_weighs_uses_by_age():
    # (layer, expert, last use, loaded at, uses): 10 uses 99 ago, 1 use just now, 3 uses 9 ago
    candidates = [(0, 0, 1, 0, 10), (0, 1, 100, 0, 1), (0, 2, 91, 0, 3)]
    assert _testing.choose_victim("lfru", 4, candidates, 0, now=100) == 0  # 0.1, 1, 0.3
    assert _testing.choose_victim("lfru", 4, candidates[1:], 0, now=100) == 1


def test_least_stale_takes_what_this_pass_has_not_used_oldest_read_first():
    candidates = [(0, 0, 12, 1, 1), (1, 0, 8, 5, 1), (2, 0, 9, 3, 1)]
    assert _testing.choose_victim("least-stale", 4, candidates, 1, now=13, pass_start=10) == 2
    assert _testing.choose_victim("least-stale", 4, candidates[:1], 1, now=13, pass_start=10) == 0


def test_floors_protect_a_layer_until_nothing_else_is_left():
    candidates = [(0, 0, 1, 0, 1), (1, 0, 2, 0, 1)]
    for floors, victim in (([1, 0], 1), ([0, 1], 0), ([1, 1], 0), ([], 0)):
        found = _testing.choose_victim("lru", 2, candidates, 0, floors=floors, resident=[1, 1])
        assert found == victim


def test_use_rate_is_the_share_of_passes():
    assert _testing.use_rate([], 0) == _testing.use_rate([], 7) == 0
    assert _testing.use_rate([1], 1) == pytest.approx(1)
    assert _testing.use_rate(list(range(1, 301)), 300) == pytest.approx(1)
    assert _testing.use_rate(list(range(2, 601, 2)), 600) == pytest.approx(0.5, abs=0.1)
    lately = _testing.use_rate(list(range(290, 301)), 300)
    long_ago = _testing.use_rate(list(range(1, 12)), 300)
    assert lately > 0.55
    assert long_ago < 0.01


def test_next_use_weighs_the_rate_by_the_round_of_layers():
    always, seldom = list(range(1, 101)), list(range(10, 101, 10))
    # Computing layer 1 of 4: layer 2 comes next, layer 1 itself last.
    assert _testing.choose_next_use(4, [(2, always), (1, always), (0, always)], 1, 100) == 1
    assert _testing.choose_next_use(4, [(2, seldom), (1, always), (0, always)], 1, 100) == 0
    # What has not come up in this pass cannot have missed it.
    assert _testing.choose_next_use(4, [(0, always), (2, always[:-1])], 1, 100) == 0
