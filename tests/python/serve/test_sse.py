# SPDX-License-Identifier: Apache-2.0
"""Streams of events: silence, errors, and clients that leave."""

import asyncio

import pytest

from adapmoe import BudgetError, ClosedError, PackError, ReadError
from adapmoe.serve import sse
from adapmoe.serve.errors import failed
from adapmoe.serve.service import RequestTimeoutError
from adapmoe.serve.sse import DONE, PING, EventStream, event


class Answering:
    closed = 0

    async def aclose(self):
        self.closed += 1


async def sent_by(events, *, gone_after=None):
    """What a client gets of an event stream; it leaves after so many seconds."""
    answering, sent = Answering(), []

    async def receive():
        await asyncio.sleep(3600 if gone_after is None else gone_after)
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.body":
            assert sent[-1:] != [b""], "the body has ended"
            sent.append(message["body"])

    stream = EventStream(events, answering, lambda error: event({"error": str(error)}))
    await stream({"type": "http"}, receive, send)
    assert answering.closed == 1
    return sent


async def slow(pause, error=None):
    yield event({"n": 1})
    await asyncio.sleep(pause)
    if error is not None:
        raise error
    yield DONE


def test_a_silent_stream_sends_comments(monkeypatch):
    monkeypatch.setattr(sse, "SILENCE_S", 0.1)
    sent = asyncio.run(sent_by(slow(0.5)))
    assert sent[0] == b'data: {"n":1}\n\n'
    assert sent[-2:] == [DONE, b""]
    assert 3 <= sent.count(PING) <= 10
    assert PING.startswith(b":")


def test_a_stream_that_goes_on_sends_none():
    assert asyncio.run(sent_by(slow(0))) == [b'data: {"n":1}\n\n', DONE, b""]


def test_an_error_is_the_last_event():
    sent = asyncio.run(sent_by(slow(0, ReadError("cannot be read"))))
    assert sent == [b'data: {"n":1}\n\n', b'data: {"error":"cannot be read"}\n\n', b""]


def test_a_client_that_leaves_closes_the_answer():
    assert asyncio.run(sent_by(slow(60), gone_after=0.05)) == [b'data: {"n":1}\n\n']


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (ReadError("x"), 503, {}),
        (PackError("x"), 503, {}),
        (ClosedError("x"), 503, {"Retry-After": "5"}),
        (BudgetError("x"), 429, {"Retry-After": "5"}),
        (MemoryError("x"), 429, {"Retry-After": "5"}),
        (RequestTimeoutError("x"), 504, {"x-should-retry": "false"}),
        (RuntimeError("x"), 500, {}),
    ],
)
def test_what_failures_are_for_clients(error, status, headers, caplog):
    found = failed(error)
    assert (found.status, found.headers) == (status, headers)
    assert bool(caplog.records) == isinstance(error, ReadError | PackError | RuntimeError)
