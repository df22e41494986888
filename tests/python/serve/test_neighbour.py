# SPDX-License-Identifier: Apache-2.0
"""When memory is given back and taken again, and that the model's ceiling follows."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.errors import BudgetError, ClosedError
from adapmoe.machine.pressure import MemoryState
from adapmoe.serve import neighbour
from adapmoe.serve.neighbour import QUIET_S, TAKING_S, Ceiling, Neighbour, next_ceiling

MIB = 1 << 20
KEEP = 512 * MIB
FULL = Ceiling(bytes=8000 * MIB, least=1600 * MIB, most=8000 * MIB)  # a step is 400 MiB


def state(spare=10_000 * MIB, stalled=0.0):
    return MemoryState(max(spare + KEEP, 0), spare, stalled)


def test_what_is_missing_is_given_back_at_once():
    after = next_ceiling(FULL, state(-700 * MIB), KEEP, now=100.0)
    assert after.bytes == FULL.bytes - 700 * MIB
    after = next_ceiling(after, state(-1 * MIB), KEEP, now=100.1)
    assert after.bytes == FULL.bytes - 701 * MIB


def test_never_below_the_floor():
    assert next_ceiling(FULL, state(-50_000 * MIB), KEEP, now=100.0).bytes == FULL.least


def test_where_others_wait_a_step_is_given_back_per_second():
    waiting = state(spare=100 * MIB, stalled=0.3)
    after = FULL
    ceilings = []
    for tenth in range(21):
        after = next_ceiling(after, waiting, KEEP, now=100.0 + tenth / 10)
        ceilings.append((FULL.bytes - after.bytes) // FULL.step)
    assert ceilings[0] == 1
    assert ceilings[-1] in (2, 3)


def test_waiting_while_memory_is_plentiful_is_not_our_doing():
    assert next_ceiling(FULL, state(stalled=0.9), KEEP, now=100.0) == FULL


def test_it_is_taken_again_slowly_and_only_after_a_quiet_time():
    after = next_ceiling(FULL, state(-800 * MIB), KEEP, now=100.0)
    rises = []
    for tenth in range(1, 400):
        now = 100.0 + tenth / 10
        risen = next_ceiling(after, state(), KEEP, now)
        if risen.bytes > after.bytes:
            rises.append((now, risen.bytes - after.bytes))
        after = risen
    assert after.bytes == FULL.most
    assert rises[0][0] == pytest.approx(100.0 + QUIET_S, abs=0.2)
    assert rises[1][0] - rises[0][0] >= TAKING_S - 0.01
    assert [size for _, size in rises] == [FULL.step] * 2


def test_no_more_is_taken_than_leaves_a_step_spare():
    low = replace(FULL, bytes=FULL.least)
    assert next_ceiling(low, state(FULL.step), KEEP, now=100.0).bytes == low.bytes
    assert next_ceiling(low, state(FULL.step + 5), KEEP, now=100.0).bytes == low.bytes + 5


SPARE = st.integers(-4000, 12_000).map(lambda mib: mib * MIB)


@given(st.lists(st.tuples(SPARE, st.floats(0, 1), st.floats(0.05, 30)), max_size=50))
def test_whatever_happens_the_ceiling_stays_within_its_bounds(looks):
    now, ceiling = 0.0, FULL
    for spare, stalled, seconds in looks:
        now += seconds
        after = next_ceiling(ceiling, state(spare, stalled), KEEP, now)
        assert FULL.least <= after.bytes <= FULL.most
        if spare < 0:
            assert after.bytes == max(ceiling.bytes + spare, FULL.least) or stalled > 0.1
        if after.bytes > ceiling.bytes:
            assert after.bytes - ceiling.bytes <= spare - FULL.step
        ceiling = after


@given(st.integers(1, 6000), st.integers(0, 6400))
def test_a_steady_load_is_met_without_going_up_and_down(others, start):
    """The memory that others leave: the ceiling settles, and then stays."""
    ceiling = replace(FULL, bytes=FULL.least + start * MIB)
    room = 10_000 * MIB - others * MIB  # for the model and what is to stay free
    changes = []
    for second in range(200):
        spare = room - KEEP - ceiling.bytes
        after = next_ceiling(ceiling, state(spare), KEEP, now=100.0 + second)
        changes.append(after.bytes - ceiling.bytes)
        ceiling = after
    assert not any(changes[-50:])
    ups = [change > 0 for change in changes if change]
    assert ups == sorted(ups)  # down first, then up, and no more


class Model:
    """The part of an LLM that a neighbour uses."""

    def __init__(self):
        self.memory_split = SimpleNamespace(memory_bytes=FULL.most, floor_bytes=FULL.least)
        self.asked = []
        self.error = None

    def set_memory(self, size):
        if self.error is not None:
            raise self.error
        self.asked.append(size)


class Watch:
    def __init__(self):
        self.state = state()

    def look(self):
        if isinstance(self.state, Exception):
            raise self.state
        return self.state


@pytest.fixture
def place():
    """A model, the memory beside it, a clock and the neighbour."""
    model, watch, clock = Model(), Watch(), SimpleNamespace(now=100.0)
    found = Neighbour(model, watch, KEEP, lambda: clock.now)
    return SimpleNamespace(model=model, watch=watch, clock=clock, neighbour=found)


def test_the_model_follows_and_the_facts_tell(place, caplog):
    place.watch.state = state(-1000 * MIB)
    place.neighbour.look()
    assert place.model.asked == [FULL.bytes - 1000 * MIB]
    assert place.neighbour.facts.given_back_bytes == 1000 * MIB
    place.watch.state = state(stalled=0.05)
    for _ in range(20):
        place.clock.now += 5
        place.neighbour.look()
    assert place.model.asked[-1] == FULL.most
    assert place.neighbour.facts.given_back_bytes == 0
    assert place.neighbour.facts.pressure == 0.05
    assert place.neighbour.facts.room_bytes == 10_000 * MIB + KEEP
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "memory is short" in caplog.messages[0]
    assert caplog.messages[1] == "the memory ceiling is 7.81 GiB again"


def test_memory_that_others_took_first_is_tried_for_again(place):
    place.watch.state = state(-800 * MIB)
    place.neighbour.look()
    place.watch.state = state()
    place.model.error = BudgetError("others have it")
    place.clock.now += 60
    place.neighbour.look()
    assert place.neighbour.facts.given_back_bytes == 800 * MIB
    place.model.error = None
    for _ in range(2):
        place.clock.now += 5
        place.neighbour.look()
    assert place.neighbour.facts.given_back_bytes == 0


def test_it_watches_until_it_is_stopped_whatever_goes_wrong(place, monkeypatch, caplog):
    monkeypatch.setattr(neighbour, "PERIOD_S", 0.001)
    place.watch.state = OSError("no such file")
    place.neighbour.start()
    while not caplog.records:
        time.sleep(0.001)
    place.watch.state = state(-1000 * MIB)
    while not place.model.asked:
        time.sleep(0.001)
    place.neighbour.stop()
    asked = len(place.model.asked)
    time.sleep(0.02)
    assert len(place.model.asked) == asked


def test_a_closed_model_ends_the_watch(place, monkeypatch):
    monkeypatch.setattr(neighbour, "PERIOD_S", 0.001)
    place.model.error = ClosedError("the model is closed")
    place.watch.state = state(-1000 * MIB)
    place.neighbour.start()
    place.neighbour._thread.join(timeout=10)
    assert not place.neighbour._thread.is_alive()
