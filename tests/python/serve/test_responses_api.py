# SPDX-License-Identifier: Apache-2.0
"""/v1/responses as OpenAI's client sees it, and as others might misuse it."""

import json

import openai
import pydantic
import pytest

from adapmoe.errors import ReadError
from support.core.fake_service import MODEL

PATH = "/v1/responses"


def respond(client, **options):
    return client.responses.create(model=MODEL, **{"input": "Hi", **options})


def test_a_response_has_text_status_and_usage(service, client):
    service.cached_tokens = 2
    answer = respond(client, instructions="Be brief.", metadata={"a": "b"})
    assert answer.output_text == "Hello there."
    assert (answer.status, answer.store, answer.metadata) == ("completed", False, {"a": "b"})
    assert answer.usage.input_tokens == len(service.asks[0].prompt)
    assert answer.usage.input_tokens_details.cached_tokens == 2
    assert answer.usage.output_tokens == 6
    assert service.prompt.strip().startswith("<|system|>Be brief.\n<|user|>Hi\n")
    assert service.answers[0].closed


def test_a_stream_adds_up_to_the_response(client):
    with client.responses.stream(model=MODEL, input="Hi") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == "Hello there."
    assert len(deltas) > 3
    assert [e.type for e in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert events[0].response.status == "in_progress"
    assert events[2].item.content == []
    assert events[-1].type == "response.completed"
    assert final.usage.output_tokens == 6


def test_events_carry_their_names(http):
    text = http.post(PATH, json={"model": MODEL, "input": "Hi", "stream": True}).text
    for event in text.strip().split("\n\n"):
        name, data = event.split("\n")
        assert name == "event: " + json.loads(data.removeprefix("data: "))["type"]


def test_a_conversation_of_items_reaches_the_template(service, client):
    first = respond(client)
    question = {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]}
    respond(client, input=[{"role": "developer", "content": "D"}, *first.output, question])
    assert "<|system|>D\n<|assistant|>Hello there.\n<|user|>And now?\n" in service.prompt


def test_reasoning_is_an_item_of_its_own_and_comes_back(service, client):
    service.texts = ["<think>\nHmm.</think>\nYes."]
    answer = respond(client)
    reasoning, message = answer.output
    assert (reasoning.type, reasoning.content[0].text) == ("reasoning", "Hmm.")
    assert answer.output_text == message.content[0].text == "Yes."
    assert answer.usage.output_tokens_details.reasoning_tokens > 0
    with client.responses.stream(model=MODEL, input="Hi") as stream:
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.output[0].content[0].text == "Hmm."
    respond(client, input=[*answer.output, {"role": "user", "content": "Why?"}])
    assert "<|assistant|><think>Hmm.</think>Yes." in service.prompt


def test_an_answer_that_is_cut_off_is_incomplete(client):
    answer = respond(client, max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    *_, last = respond(client, max_output_tokens=2, stream=True)
    assert last.type == "response.incomplete"


def test_an_empty_answer_is_an_empty_message(service, client):
    service.texts = [""]
    assert respond(client).output[0].content[0].text == ""


class Verdict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    good: bool


def test_a_schema_makes_random_logits_parse(service, client):
    service.texts = [None]
    answer = client.responses.parse(model=MODEL, input="Hi", text_format=Verdict)
    assert isinstance(answer.output_parsed, Verdict)
    assert answer.text.format.type == "json_schema"


def test_json_mode_constrains_the_sampling(service, client):
    service.texts = ["{}"]
    assert respond(client, text={"format": {"type": "json_object"}}).output_text == "{}"
    assert len(service.asks[0].params[0].logits_processors) == 1


def test_logprobs_are_included_where_wanted(client):
    include = ["message.output_text.logprobs"]
    answer = respond(client, include=include, top_logprobs=1)
    logprobs = answer.output[0].content[0].logprobs
    assert [entry.token for entry in logprobs] == ["H", "el", "lo", " there", ".", "</s>"]
    assert all(len(entry.top_logprobs) == 1 for entry in logprobs)
    events = respond(client, include=include, stream=True)
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [entry.token for delta in deltas for entry in delta.logprobs][:2] == ["H", "el"]


def test_what_would_change_nothing_is_accepted(service, client):
    respond(
        client,
        tools=[],
        tool_choice="auto",
        parallel_tool_calls=True,
        background=False,
        store=False,
        truncation="disabled",
        previous_response_id=None,
        reasoning=None,
        include=[],
        service_tier="auto",
        user="u",
        extra_body={"top_k": 3},
    )
    assert service.asks[0].params[0].top_k == 3


@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        ({"previous_response_id": "resp_1"}, None, "'previous_response_id' is not supported"),
        ({"reasoning": {"effort": "low"}}, None, "'reasoning' is not supported"),
        ({"conversation": "c"}, None, "'conversation' is not supported"),
        ({"tools": [{"type": "web_search"}]}, None, "use /v1/chat/completions"),
        ({"tool_choice": "required"}, "tool_choice", "'none' or 'auto'"),
        ({"store": True}, "store", "should be False"),
        ({"background": True}, "background", "should be False"),
        ({"truncation": "auto"}, "truncation", "'disabled'"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]", "logprobs"),
        ({"top_logprobs": 2}, None, "only with include"),
        ({"foo": 1}, "foo", "unknown parameter: 'foo'"),
        ({"stop": "x"}, "stop", "unknown parameter: 'stop'"),
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": []}, "input", "at least 1 item"),
        (
            {"input": [{"type": "function_call_output", "call_id": "1", "output": ""}]},
            "input[0]",
            "items of type 'function_call_output' are not supported",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
            "parts of type 'input_image' are not supported",
        ),
        ({"text": {"format": {"type": "xml"}}}, "text.format", "'xml'"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "x"}}}},
            None,
            "x",
        ),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_named(http, service, body, param, reason):
    response = http.post(PATH, json={"model": MODEL, "input": "Hi", **body})
    assert response.status_code == 400
    error = response.json()["error"]
    assert reason in error["message"]
    assert error["param"] == param
    assert service.answers == []


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt", input="x")


def test_a_stream_that_fails_ends_with_an_error_event(service, client):
    service.texts = [ReadError("the disk failed")]
    *events, last = respond(client, stream=True)
    assert (last.type, last.message, last.code) == ("error", "the disk failed", "unavailable")
    assert last.sequence_number == len(events)
    with pytest.raises(openai.InternalServerError, match="the disk failed"):
        respond(client)
