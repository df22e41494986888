# SPDX-License-Identifier: Apache-2.0
"""What a session says of its experts while it runs, and that it gets on."""

import threading
import time

import numpy as np
import pytest

from adapmoe import _core

RESIDENT, LOADING, USED, LEFT_OUT = 1, 2, 4, 8
PROMPT = np.arange(40, 50, dtype=np.int32)


@pytest.fixture(scope="module")
def pack(pack_factory):
    return pack_factory(tile_width=64)


def having(states, flag):
    return {(int(layer), int(expert)) for layer, expert in np.argwhere(states & flag)}


@pytest.mark.parametrize("gating", ["off", "sensitivity"])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_map_shows_what_the_latest_token_used(pack, share, gating):
    session = _core.Session(
        str(pack),
        experts_resident=share,
        prefetch=0,
        gating=gating,
        gating_threshold=0.02,
        sensitivity=[1.0] * 8,
    )
    sequence = session.new_sequence()
    sequence.prefill(PROMPT)
    left_out = gated = 0
    for token in range(60, 80):
        session.record_trace(True)
        stats = sequence.decode(token)[1]
        states = session.expert_states()
        assert having(states, USED) == {
            (layer, expert) for _, layer, experts in session.trace() for expert in experts
        }
        assert having(states, RESIDENT) == set(session.resident_set())
        assert not having(states, LOADING)  # the token waited for all it needed
        left_out += len(having(states, LEFT_OUT))
        gated += stats.gated
        assert not having(states, LEFT_OUT) & having(states, USED)
    assert left_out == gated  # one of two experts each
    assert bool(left_out) == (gating == "sensitivity")
    session.close()


def test_the_map_of_a_prompt_has_every_expert_that_a_row_used(pack):
    session = _core.Session(str(pack), experts_resident=0.5)
    session.record_trace(True)
    session.new_sequence().prefill(np.arange(40, 90, dtype=np.int32))
    used = {(layer, expert) for _, layer, experts in session.trace() for expert in experts}
    assert having(session.expert_states(), USED) == used
    assert len(used) > 16  # more than one token has
    session.close()


def test_reads_under_way_are_seen_and_progress_grows_with_reads_and_layers(pack):
    session = _core.Session(str(pack), experts_resident=1.0, request_bytes=4096, prefetch=0)
    assert session.progress == 0
    assert not session.expert_states().any()
    every = [(layer, expert) for layer in range(8) for expert in range(8)]
    assert session.warm(every) == len(every)
    loading = having(session.expert_states(), LOADING)
    assert loading
    while len(session.resident_set()) < len(every):
        time.sleep(0.001)
    reads = session.progress
    assert reads > len(every)  # pieces of tiles
    assert having(session.expert_states(), RESIDENT) == set(every)
    session.new_sequence().prefill(PROMPT)
    assert session.progress == reads + 8
    session.close()


def test_neither_waits_for_a_step(pack):
    session = _core.Session(str(pack), experts_resident=0.3, max_context=512)
    ids = np.random.default_rng(3).integers(5, 4000, 500).astype(np.int32)
    step = threading.Thread(target=session.new_sequence().prefill, args=(ids,))
    step.start()
    seen = set()
    while step.is_alive():
        seen.add(session.progress)
        assert session.expert_states().shape == (8, 8)
    step.join()
    assert len(seen) > 10
    session.close()


def test_a_running_step_gives_memory_back_between_two_of_its_layers(pack):
    ids = np.random.default_rng(3).integers(5, 4000, 500).astype(np.int32)
    logits = []
    for shrinks in (False, True):
        session = _core.Session(str(pack), experts_resident=1.0, max_context=512, prefill_chunk=512)
        sequence = session.new_sequence()
        sequence.prefill(ids)  # everything becomes resident
        assert len(session.resident_set()) == 64
        sequence.reset()
        step = threading.Thread(target=lambda s=sequence: logits.append(s.prefill(ids)[0]))
        before = session.progress
        step.start()
        while session.progress == before and step.is_alive():
            time.sleep(0.0005)  # its first layer is being computed
        if shrinks:
            floor = session.memory_split.floor_bytes
            assert session.set_memory(floor).memory_bytes == floor
            assert len(having(session.expert_states(), RESIDENT)) < 16
            assert step.is_alive()
            assert session.memory_split.memory_bytes == floor
        step.join()
        session.close()
    assert np.array_equal(*logits)
