# SPDX-License-Identifier: Apache-2.0
"""Answers of megabytes are written outside the event loop, and there is a limit to them."""

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.generation.sampling import TokenLogprobs
from adapmoe.serve import json_text, parameters, responses
from adapmoe.serve.json_text import json_bytes, json_in_pieces
from adapmoe.serve.logprobs import LogprobsWriter
from support.core.fake_service import MODEL

USER = {"role": "user", "content": "Hi"}
# Requests for 3 log-probabilities per token.
WANTED = {
    "/v1/chat/completions": {"messages": [USER], "logprobs": True, "top_logprobs": 2},
    "/v1/completions": {"prompt": "Hi", "logprobs": 2},
    "/v1/responses": {
        "input": "Hi",
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    },
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)  # fmt: skip


@given(value=json_values, times=st.sampled_from([1, 40, 120]))
def test_pieces_add_up_to_the_same_json(value, times):
    for one in (value, [value] * times, {"a": [value] * times}):
        assert b"".join(json_in_pieces(one)) == json_bytes(one)


def test_no_piece_holds_a_long_list():
    value = {"choices": [{"logprobs": {"content": [{"token": "x"}] * 1000}}]}
    assert max(map(len, json_in_pieces(value))) < 20


@pytest.mark.parametrize("path", WANTED)
@pytest.mark.parametrize("wanted", [True, False])
def test_a_thread_writes_answers_with_log_probabilities(http, service, path, wanted, monkeypatch):
    threads = {}
    answer, pieces = service.answer, json_text.json_in_pieces

    def answered(asks):
        threads["loop"] = threading.get_ident()
        return answer(asks)

    def written(value):
        threads["writer"] = threading.get_ident()
        return pieces(value)

    monkeypatch.setattr(service, "answer", answered)
    monkeypatch.setattr(json_text, "json_in_pieces", written)
    body = {"model": MODEL, **WANTED[path]}
    if not wanted:
        for name in ("logprobs", "top_logprobs", "include"):
            body.pop(name, None)
    response = http.post(path, json=body)
    assert response.status_code == 200
    assert ("writer" in threads) is wanted
    assert threads.get("writer") != threads["loop"]
    assert ('"logprob' in response.text) or not wanted


def test_a_thread_writes_the_last_events_of_a_response(http, service, monkeypatch):
    threads = []
    answer, pieces = service.answer, responses.json_in_pieces

    def answered(asks):
        threads.append(threading.get_ident())
        return answer(asks)

    def written(value):
        threads.append(threading.get_ident())
        return pieces(value)

    monkeypatch.setattr(service, "answer", answered)
    monkeypatch.setattr(responses, "json_in_pieces", written)
    stream = {"model": MODEL, **WANTED["/v1/responses"], "stream": True}
    events = [
        json.loads(event.split("data: ")[1])
        for event in http.post("/v1/responses", json=stream).text.strip().split("\n\n")
    ]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    [done] = [event for event in events if event["type"] == "response.output_text.done"]
    # The last token is the end, which has no text.
    assert [entry for delta in deltas for entry in delta["logprobs"]] == done["logprobs"][:-1]
    part = events[-1]["response"]["output"][0]["content"][0]
    assert part["logprobs"] == done["logprobs"]
    [begun] = [event for event in events if event["type"] == "response.content_part.added"]
    assert begun["part"]["logprobs"] == []
    loop, *writers = threads
    assert len(writers) == len(events) - len(deltas)
    assert loop not in writers


@pytest.mark.parametrize("path", WANTED)
def test_more_log_probabilities_than_one_response_may_hold_are_refused(
    http, service, path, monkeypatch
):
    monkeypatch.setattr(parameters, "MAX_LOGPROBS", 60)
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    body = {"model": MODEL, **WANTED[path], limit: 21}
    response = http.post(path, json=body)
    assert response.status_code == 400
    assert "more than the 60 that one response may hold" in response.json()["error"]["message"]
    assert service.answers == []
    assert http.post(path, json={**body, limit: 20}).status_code == 200
    if path != "/v1/responses":
        assert http.post(path, json={**body, limit: 11, "n": 2}).status_code == 400
    if path != "/v1/completions":  # there, a missing limit is 16
        del body[limit]
        assert http.post(path, json=body).status_code == 400


def test_all_prompts_of_a_request_count(http, monkeypatch):
    monkeypatch.setattr(parameters, "MAX_LOGPROBS", 60)
    body = {"model": MODEL, "prompt": ["a", "b"], "logprobs": 2, "max_tokens": 11}
    assert http.post("/v1/completions", json=body).status_code == 400
    assert http.post("/v1/completions", json={**body, "max_tokens": 10}).status_code == 200


def test_a_token_is_looked_up_once(tokenizer, monkeypatch):
    looked_up = []
    lookup = tokenizer.token_bytes.lookup

    def counted(token_id, *, at_start):
        looked_up.append(token_id)
        return lookup(token_id, at_start=at_start)

    monkeypatch.setattr(tokenizer.token_bytes, "lookup", counted)
    writer = LogprobsWriter(tokenizer, answers=False)
    written = writer.chat([TokenLogprobs(300, -0.5, ((300, -0.5), (301, -1.0)))] * 50)
    assert len(written) == 50
    assert sorted(looked_up) == [300, 301]
