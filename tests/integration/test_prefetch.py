# SPDX-License-Identifier: Apache-2.0
"""G3: reading ahead, evicting by tile, floors and policies change reads and never a token."""

import numpy as np
import pytest

from adapmoe import _core

IDS = np.arange(40, 90, dtype=np.int32)


def run(pack, **options):
    session = _core.Session(str(pack), experts_resident=0.4, max_context=128, **options)
    seq = session.new_sequence()
    rows = [seq.prefill(IDS[:10].copy())[0]]
    rows += [seq.decode(int(token))[0] for token in IDS[10:]]
    totals = session.totals
    scores = session.prediction_scores()
    session.close()
    return np.stack(rows), totals, scores


@pytest.fixture(scope="module")
def pack(pack_factory):
    return pack_factory(tile_width=64)


@pytest.fixture(scope="module")
def plain(pack):
    return run(pack, prefetch=0)[0]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("gating", ["off", "sensitivity"])
def test_g3_prefetch_on_equals_off(pack, depth, gating):
    gate = {"gating": gating, "gating_threshold": 0.02, "sensitivity": [1.0] * 8}
    expected, _, _ = run(pack, **gate, prefetch=0)
    ahead, totals, scores = run(pack, **gate, prefetch=depth, prefetch_trials=False)
    assert np.array_equal(expected, ahead)
    assert totals.prefetched > 0
    assert totals.prefetch_used > 0
    right, needed = map(sum, zip(*scores[2:], strict=True))
    assert right / needed > 0.5  # the later layers' routers do predict


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("depth", [0, 2])
def test_a_long_prompt_reads_the_next_layer_ahead(pack, fraction, depth):
    """Without being asked to look ahead, chunk after chunk, and never a token changes."""
    ids = np.random.default_rng(3).integers(5, 4000, 150).astype(np.int32)
    logits = []
    for share in (1.0, fraction):
        session = _core.Session(str(pack), experts_resident=share, prefill_chunk=64, prefetch=depth)
        seq = session.new_sequence()
        for _ in range(2):  # the second time with whatever the first one left
            rows, stats = seq.prefill(ids, all_logits=True)
            logits.append(rows)
            seq.reset()
        session.close()
    assert all(np.array_equal(logits[0], rows) for rows in logits)
    if depth == 0 and fraction in (0.2, 0.5):
        assert stats.prefetched > 0.2 * stats.experts_used
        assert stats.prefetch_used >= 0.95 * stats.prefetched


def test_a_short_prompt_reads_nothing_ahead(pack):
    session = _core.Session(str(pack), experts_resident=0.3, prefetch=0)
    _, stats = session.new_sequence().prefill(IDS[:31].copy())
    assert stats.prefetched == 0
    session.close()


def test_g3_trials_change_no_token(pack, plain):
    assert np.array_equal(plain, run(pack, prefetch=3)[0])


@pytest.mark.parametrize("gate", [(), np.random.default_rng(0).normal(size=8 * 256).tolist()])
@pytest.mark.parametrize("embedding", [False, True])
def test_the_first_layer_is_foreseen_and_no_token_changes(pack, plain, gate, embedding):
    logits, _, scores = run(
        pack,
        prefetch=1,
        prefetch_trials=False,
        first_layer_gate=gate,
        first_layer_embedding=embedding,
    )
    assert np.array_equal(plain, logits)
    right, needed = scores[0]
    assert (needed > 0) == (embedding or len(gate) > 0)
    if embedding:  # an untrained gate on the hidden state is corrected by it
        assert right / needed > 0.75


@pytest.mark.parametrize("policy", ["next-use", "farthest-layer", "lru", "lfru", "least-stale"])
@pytest.mark.parametrize("evict", ["tile", "expert"])
def test_policies_and_eviction_never_change_a_bit(pack, plain, policy, evict):
    floors = [1, 2, 3, 0, 0, 4, 8, 1]
    for options in (
        {"prefetch": 0},
        {"layer_floors": floors},
        {"prefetch": 2, "layer_floors": floors},
    ):
        assert np.array_equal(plain, run(pack, policy=policy, evict=evict, **options)[0])
