# SPDX-License-Identifier: Apache-2.0
"""Who was busy when, as a trace for chrome://tracing or ui.perfetto.dev."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapmoe.core_types import Span
from adapmoe.machine.files import write_output

LANES = ("compute", "stall", "demand", "prefetch")  # top to bottom
_LANE_THREADS = 1000  # more than a lane has threads


def chrome_trace(spans: Sequence[Span]) -> dict[str, Any]:
    """The trace-event JSON object: complete events in microseconds, one track per lane and thread.

    Raises:
        ValueError: a lane that is not in LANES.
    """
    events: list[dict[str, Any]] = []
    for lane, thread in sorted({(_lane(span.lane), span.thread) for span in spans}):
        name = LANES[lane] if LANES[lane] in ("compute", "stall") else f"{LANES[lane]} {thread}"
        track = _track(lane, thread)
        place = {"ph": "M", "pid": 1, "tid": track}
        events.append({"name": "thread_name", "args": {"name": name}} | place)
        events.append({"name": "thread_sort_index", "args": {"sort_index": track}} | place)
    for lane_name, name, thread, layer, begin_ns, end_ns in spans:
        event = {
            "name": name if layer < 0 else f"{name}, layer {layer}",
            "cat": lane_name,
            "ph": "X",
            "pid": 1,
            "tid": _track(_lane(lane_name), thread),
            "ts": begin_ns / 1000,
            "dur": (end_ns - begin_ns) / 1000,
        }
        events.append(event)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_chrome_trace(path: Path, spans: Sequence[Span]) -> None:
    """Write `chrome_trace(spans)` to `path`. Raises OSError."""
    write_output(path, json.dumps(chrome_trace(spans), allow_nan=False).encode())


def _lane(name: str) -> int:
    if name not in LANES:
        raise ValueError(f"{name!r} is no lane of a timeline: expected one of {', '.join(LANES)}")
    return LANES.index(name)


def _track(lane: int, thread: int) -> int:
    return lane * _LANE_THREADS + thread
