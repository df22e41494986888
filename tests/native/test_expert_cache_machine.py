# SPDX-License-Identifier: Apache-2.0
"""ExpertCache under random use, delays and failures, compared with a model in plain Python."""

import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from adapmoe import _testing
from support.core.cache_model import FAILED, LOADING, CacheModel

MOST_FRAMES = 15
FRAMES = st.integers(3, MOST_FRAMES)
OUTCOMES = st.sampled_from(["ok", "ok", "ok", "damaged", "failed"])


class CacheMachine(RuleBasedStateMachine):
    def __init__(self, pack):
        super().__init__()
        self.pack = pack
        self.expert_ids = [(i, j) for i in range(pack.layers) for j in range(pack.experts)]
        self.queue = []  # (expert, tile) of reads under way, in order of submission
        self.frames = {}  # (expert, tile) -> frame
        self.held = []  # (expert, hold)

    @initialize(frames=FRAMES, policy=st.sampled_from(["lru", "farthest-layer"]))
    def open(self, frames, policy):
        self.rig = _testing.CacheRig(self.pack.path, frames, policy=policy, capacity=MOST_FRAMES)
        self.model = CacheModel(self.pack.layers, self.pack.tiles, frames, policy)

    def finish(self, position, outcome):
        finishers = {
            "ok": self.rig.complete,
            "damaged": self.rig.complete_damaged,
            "failed": lambda at: self.rig.fail(at, "no answer"),
        }
        finishers[outcome](position)
        self.model.complete(*self.queue.pop(position), outcome)

    def check_started_reads(self, expert):
        """The reads of `expert` are queued last, ascending, into frames that nobody uses."""
        new = self.rig.queued()[-self.pack.tiles :]
        assert [q[:3] for q in new] == [(*expert, tile) for tile in range(self.pack.tiles)]
        others = [f for (e, _), f in self.frames.items() if e in self.model.states and e != expert]
        frames = [q[3] for q in new]
        assert set(frames) <= set(range(MOST_FRAMES)) - set(others)
        assert len(set(frames)) == len(frames)
        for tile, frame in enumerate(frames):
            self.frames[expert, tile] = frame
            self.queue.append((expert, tile))

    @rule(data=st.data(), outcome=OUTCOMES, cancel=st.booleans())
    def acquire(self, data, outcome, cancel):
        expert = data.draw(st.sampled_from(self.expert_ids))
        # Each wait lasts as long as the cache lets pass between two looks at the interrupt.
        if self.model.would_wait(expert) and data.draw(st.integers(0, 4)):
            return
        state = self.model.make_room(expert)

        def waiting():
            """Called while the cache waits for reads that nobody holds: finish one of them."""
            nonlocal state
            assert state == "wait"
            if cancel:
                return True
            abandoned = [i for i, (e, _) in enumerate(self.queue) if not self.model.holds[e]]
            own = [i for i in abandoned if self.queue[i][0] == expert]
            self.finish((own or abandoned)[-1], outcome)
            state = self.model.make_room(expert)
            return False

        if state == "wait" and cancel:
            with pytest.raises(_testing.StatusError, match="kCancelled"):
                self.rig.acquire(*expert, waiting)
            return
        hold = self.rig.acquire(*expert, waiting)
        assert state in ("room", "refused")
        assert (hold is not None) == (state == "room")
        if hold is not None:
            self.held.append((expert, hold))
            if self.model.hold(expert):
                self.check_started_reads(expert)

    @precondition(lambda self: not self.held and not self.queue)
    @rule(frames=FRAMES)
    def resize(self, frames):
        self.rig.resize(frames)
        self.model.resize(frames)

    @precondition(lambda self: self.queue)
    @rule(data=st.data(), outcome=OUTCOMES)
    def finish_a_read(self, data, outcome):
        self.finish(data.draw(st.integers(0, len(self.queue) - 1)), outcome)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        expert, hold = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        hold.release()
        self.model.release(expert)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), outcome=OUTCOMES)
    def look_at_a_tile(self, data, outcome):
        expert, hold = data.draw(st.sampled_from(self.held))
        tile = data.draw(st.integers(0, self.pack.tiles - 1))
        if self.model.states[expert][tile] == LOADING:
            # The read ends on another thread, before or while this one waits for it.
            position = self.queue.index((expert, tile))
            reader = threading.Thread(target=self.finish, args=(position, outcome))
            reader.start()
            self.check_tile(expert, hold, tile, failed=outcome != "ok")
            reader.join()
        else:
            self.check_tile(expert, hold, tile, self.model.states[expert][tile] == FAILED)

    def check_tile(self, expert, hold, tile, failed):
        if failed:
            with pytest.raises(_testing.StatusError) as error:
                hold.tile(tile)
            assert str(error.value).startswith(("kReadError: no answer", "kPackError: "))
        else:
            np.testing.assert_array_equal(hold.tile(tile), self.pack.data[(*expert, tile)])

    @invariant()
    def the_cache_agrees_with_the_model(self):
        if not hasattr(self, "rig"):
            return
        assert [((q[0], q[1]), q[2]) for q in self.rig.queued()] == self.queue
        for expert in self.expert_ids:
            assert self.rig.resident(*expert) == self.model.resident(expert)
        model = self.model
        assert model.free >= 0
        expected = model.visits, model.hits, model.reads * self.pack.tile_bytes
        assert self.rig.stats()[:3] == expected

    @invariant()
    def held_experts_hold_the_right_bytes(self):
        for expert, hold in self.held:
            if self.model.resident(expert):
                np.testing.assert_array_equal(hold.tile(0), self.pack.data[(*expert, 0)])

    def teardown(self):
        for _, hold in self.held:
            hold.release()


def test_expert_cache_agrees_with_its_model(small_pack):
    run_state_machine_as_test(
        lambda: CacheMachine(small_pack),
        settings=settings(max_examples=150, stateful_step_count=40),
    )
