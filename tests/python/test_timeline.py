# SPDX-License-Identifier: Apache-2.0
"""The trace that a browser draws."""

import json

import pytest

from adapmoe.core_types import Span
from adapmoe.tracing.timeline import LANES, chrome_trace, write_chrome_trace

SPANS = [
    Span("compute", "attention", 0, 3, 1000, 2500),
    Span("stall", "stall", 0, -1, 2500, 4000),
    Span("demand", "read", 1, -1, 1500, 4000),
    Span("prefetch", "read", 2, -1, 0, 500),
]


def events(kind):
    return [event for event in chrome_trace(SPANS)["traceEvents"] if event["ph"] == kind]


def test_spans_become_complete_events_in_microseconds():
    first = events("X")[0]
    assert first["name"] == "attention, layer 3"
    assert (first["ts"], first["dur"]) == (1.0, 1.5)
    assert [event["cat"] for event in events("X")] == ["compute", "stall", "demand", "prefetch"]


def test_every_lane_and_thread_has_a_named_track_of_its_own():
    names = {e["tid"]: e["args"]["name"] for e in events("M") if e["name"] == "thread_name"}
    assert sorted(names.values()) == ["compute", "demand 1", "prefetch 2", "stall"]
    assert {event["tid"] for event in events("X")} == set(names)
    order = [e["args"]["sort_index"] for e in events("M") if e["name"] == "thread_sort_index"]
    assert order == sorted(order)


def test_an_unknown_lane_is_an_error():
    with pytest.raises(ValueError, match="idle"):
        chrome_trace([Span("idle", "x", 0, -1, 0, 1)])
    assert "idle" not in LANES


def test_the_file_is_json(tmp_path):
    write_chrome_trace(tmp_path / "trace.json", SPANS)
    assert json.loads((tmp_path / "trace.json").read_text()) == chrome_trace(SPANS)
