# SPDX-License-Identifier: Apache-2.0
"""What the page is told of the machine: from two looks at it to one JSON object, and the stream."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.errors import ClosedError
from adapmoe.machine.power import Span
from adapmoe.serve import viewers
from adapmoe.serve.activity import Activity, Snapshot, Sums, shown
from adapmoe.serve.errors import install_errors
from adapmoe.serve.metrics import Metrics
from adapmoe.serve.neighbour import NeighbourFacts
from adapmoe.serve.viewers import MOST_VIEWERS, Viewers

STATES = np.array([[0, 1, 2], [5, 9, 15]], np.uint8)


FACTS = NeighbourFacts(room_bytes=3 << 30, given_back_bytes=1 << 20, pressure=0.25)


def snapshot(sums, states=STATES):
    return Snapshot(sums, states, {"ceiling": 10}, {"running": 1})


def parsed(event):
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    return json.loads(event[6:])


def test_rates_are_those_between_two_looks():
    before = Sums(at=10.0, tokens=5, steps=5, joules=1.0, measured_s=1.0, bytes_read=1000)
    after = Sums(
        at=12.0,
        tokens=9,
        steps=8,
        joules=7.0,
        measured_s=2.5,
        expert_hits=30,
        experts_used=40,
        bytes_read=5000,
        stall_s=0.5,
        compute_s=1.5,
    )
    found = shown(before, snapshot(after))
    assert found["tokens_per_s"] == 2.0
    assert found["hit_rate"] == 0.75
    assert (found["read_bytes"], found["read_bytes_per_s"]) == (5000, 2000.0)
    assert found["stall_share"] == 0.25
    assert (found["joules_per_token"], found["watts"]) == (1.5, 4.0)
    assert (found["tokens"], found["steps"]) == (9, 8)


def test_the_map_has_one_digit_per_expert_layer_by_layer():
    found = shown(Sums(at=0.0), snapshot(Sums(at=1.0)))
    assert (found["layers"], found["experts"], found["map"]) == (2, 3, "01259f")


def test_of_nothing_there_is_no_share():
    busy = Sums(at=1.0, stall_s=0.1, compute_s=0.2)  # 0.1 + 0.2 - 0.1 - 0.2 is not quite 0
    for before, after in [(Sums(1.0), Sums(1.0)), (Sums(0.0, joules=1.0), Sums(1.0)), (busy, busy)]:
        found = shown(before, snapshot(after))
        assert found["hit_rate"] is found["stall_share"] is None
        assert found["joules_per_token"] is found["watts"] is None
        assert found["tokens_per_s"] == found["read_bytes_per_s"] == 0


@given(
    *(st.builds(
        Sums,
        at=st.floats(0, 1e6),
        tokens=st.integers(0, 2**60),
        joules=st.none() | st.floats(0, 1e12),
        measured_s=st.floats(0, 1e6),
        expert_hits=st.integers(0, 2**60),
        experts_used=st.integers(0, 2**60),
        bytes_read=st.integers(0, 2**62),
        stall_s=st.floats(0, 1e6),
        compute_s=st.floats(0, 1e6),
    ) for _ in range(2))
)  # fmt: skip
def test_whatever_was_counted_it_is_json(before, growth):
    grown = {
        name: getattr(before, name) + value
        for name, value in vars(growth).items()
        if value is not None and getattr(before, name) is not None
    }
    found = shown(before, snapshot(replace(before, **grown)))
    json.dumps(found, allow_nan=False)
    assert found["hit_rate"] is None or found["hit_rate"] >= 0
    assert found["tokens_per_s"] >= 0


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def llm(open_llm):
    return open_llm(max_sequences=2)


@pytest.fixture
def metrics(llm):
    return Metrics(llm)


@pytest.fixture
def activity(llm, metrics, clock):
    return Activity(llm, metrics, lambda: None, max_queue=7, clock=clock)


def test_an_open_model_is_shown(llm, metrics, clock):
    activity = Activity(llm, metrics, lambda: FACTS, max_queue=7, clock=clock)
    activity.event()
    llm.generate("Hello", max_tokens=3, ignore_eos=True)
    metrics.first_token(0.1)
    metrics.next_token(0.1)
    metrics.step(0.1, Span(0.1, None))
    metrics.state(waiting=3, running=2, prefixes=0)
    clock.now += 1
    found = parsed(activity.event())
    assert (found["layers"], found["experts"]) == (8, 8)
    assert found["map"] == "55000000" * 8
    assert (found["tokens"], found["steps"], found["tokens_per_s"]) == (2, 1, 2.0)
    assert found["hit_rate"] == 0.5
    assert found["queue"] == {"running": 2, "waiting": 3, "slots": 2, "max_queue": 7}
    memory = found["memory"]
    assert memory["ceiling"] == memory["most"] == llm.memory_split.memory_bytes
    assert memory["expert"] == llm.memory_split.expert_bytes
    assert (memory["room"], memory["given_back"], memory["pressure"]) == (
        3221 * 10**6,
        1 << 20,
        0.25,
    )


def test_the_most_is_the_ceiling_that_it_began_with(llm, activity):
    most = llm.memory_split.memory_bytes
    llm.set_memory(16 << 20)
    memory = parsed(activity.event())["memory"]
    assert (memory["ceiling"], memory["most"]) == (16 << 20, most)
    assert memory["room"] is None


def test_rates_are_of_the_last_two_seconds(metrics, clock, activity):
    rates = []
    for _ in range(60):
        metrics.next_token(0.1)
        rates.append(parsed(activity.event())["tokens_per_s"])
        clock.now += 0.1
    assert rates[-1] == pytest.approx(10)
    for _ in range(25):
        rates.append(parsed(activity.event())["tokens_per_s"])
        clock.now += 0.1
    assert rates[-1] == 0
    assert len(activity._past) < 30


def test_a_pause_in_which_nobody_looked_counts_for_no_rate(metrics, clock, activity):
    activity.event()
    clock.now += 100
    for _ in range(50):
        metrics.next_token(0.1)
    rates = []
    for _ in range(4):
        rates.append(parsed(activity.event())["tokens_per_s"])
        metrics.next_token(0.1)
        clock.now += 0.1
    assert rates == [0, 10, 10, 10]


def test_the_memory_beside_the_server_is_in_metrics(metrics):
    facts = [None, FACTS]
    metrics.watch_memory(lambda: facts[-1])

    def gauge(name):
        return metrics.registry.get_sample_value(f"adapmoe_memory_{name}")

    assert gauge("room_bytes") == 3 << 30
    assert gauge("given_back_bytes") == 1 << 20
    assert gauge("pressure_ratio") == 0.25
    facts.pop()
    assert gauge("room_bytes") is None


# The stream.


class Source:
    """Makes an event per call; `going` False: the server shuts down."""

    def __init__(self):
        self.made = 0
        self.going = True
        self.same = False
        self.error = None

    def make(self):
        if self.error is not None:
            raise self.error
        self.made += 1
        return b"data: 0\n\n" if self.same else b"data: %d\n\n" % self.made


@pytest.fixture
def source(monkeypatch):
    monkeypatch.setattr(viewers, "TICK_S", 0.005)
    return Source()


def make_app(source):
    app = FastAPI()
    install_errors(app)
    app.include_router(viewers.router(Viewers(source.make, lambda: source.going)))
    return app


class View:
    """One request to /activity: what came, and a client that can leave or be slow."""

    def __init__(self, app, pause=0.0):
        self.status = None
        self.headers = {}
        self.bodies = []
        self.ended = False
        self.pause = pause
        self.left = asyncio.Event()
        self.task = asyncio.create_task(app(self.scope(), self.receive, self.send))
        self.asked = False

    def scope(self):
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "path": "/activity",
            "raw_path": b"/activity",
            "query_string": b"",
            "headers": [],
            "scheme": "http",
            "server": ("127.0.0.1", 8000),
        }

    async def receive(self):
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
            return
        self.bodies += [message["body"]] if message["body"] else []
        self.ended = not message.get("more_body", False)
        await asyncio.sleep(self.pause)

    async def has(self, count):
        while len(self.bodies) < count:
            await asyncio.sleep(0.001)


def run(scenario):
    """One that hangs has failed."""
    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_viewer_gets_every_change(source):
    async def scenario():
        view = View(make_app(source))
        await view.has(5)
        assert view.status == 200
        assert view.headers[b"content-type"].startswith(b"text/event-stream")
        assert view.headers[b"cache-control"] == b"no-cache"
        assert view.bodies[:5] == [b"data: %d\n\n" % n for n in range(1, 6)]
        view.left.set()
        await view.task

    run(scenario)


def test_several_viewers_cost_one_look(source):
    async def scenario():
        app = make_app(source)
        several = [View(app) for _ in range(8)]
        for view in several:
            await view.has(5)
        most = max(len(view.bodies) for view in several)
        assert source.made <= most + 1
        for view in several:
            view.left.set()
        await asyncio.gather(*(view.task for view in several))

    run(scenario)


def test_nobody_looks_while_there_is_no_viewer(source):
    async def scenario():
        app = make_app(source)
        for _ in range(2):  # and then there is one again
            view = View(app)
            await view.has(2)
            view.left.set()
            await view.task
            await asyncio.sleep(0.03)
            made = source.made
            await asyncio.sleep(0.05)
            assert source.made == made

    run(scenario)


def test_a_slow_viewer_gets_the_newest_and_keeps_nothing(source):
    async def scenario():
        view = View(make_app(source), pause=0.1)
        await view.has(4)
        numbers = [int(body[6:]) for body in view.bodies]
        assert numbers == sorted(numbers)
        assert numbers[3] - numbers[1] > 8  # some were never sent
        view.left.set()
        await view.task

    run(scenario)


def test_without_a_change_there_are_signs_of_life_only(source, monkeypatch):
    monkeypatch.setattr(viewers, "LIFE_S", 0.05)

    async def scenario():
        source.same = True
        view = View(make_app(source))
        await asyncio.sleep(0.3)
        assert 3 <= len(view.bodies) <= 7
        assert source.made > 10
        view.left.set()
        await view.task

    run(scenario)


def test_streams_end_at_once_when_the_server_shuts_down(source):
    async def scenario():
        app = make_app(source)
        source.same = True
        several = [View(app) for _ in range(3)]
        for view in several:
            await view.has(1)
        source.going = False
        await asyncio.wait_for(asyncio.gather(*(view.task for view in several)), 1)
        assert all(view.ended for view in several)
        late = View(app)
        await late.task
        assert late.status == 503
        assert b"shutting down" in late.bodies[0]

    run(scenario)


@pytest.mark.parametrize("error", [ClosedError("closed"), RuntimeError("a bug")])
def test_streams_end_when_there_is_nothing_to_see(source, error, caplog):
    async def scenario():
        view = View(make_app(source))
        await view.has(1)
        source.error = error
        await asyncio.wait_for(view.task, 1)
        assert view.ended

    run(scenario)
    assert ("cannot be shown" in caplog.text) == isinstance(error, RuntimeError)


def test_there_are_only_so_many_viewers(source):
    async def scenario():
        app = make_app(source)
        several = [View(app) for _ in range(MOST_VIEWERS)]
        for view in several:
            await view.has(1)
        one_more = View(app)
        await one_more.task
        assert one_more.status == 503
        assert b"too_many_viewers" in one_more.bodies[0]
        several[0].left.set()
        await several[0].task
        again = View(app)
        await again.has(1)
        assert again.status == 200
        for view in (*several, again):
            view.left.set()
        await asyncio.gather(*(view.task for view in (*several, again)))

    run(scenario)
