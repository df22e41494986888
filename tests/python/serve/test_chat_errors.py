# SPDX-License-Identifier: Apache-2.0
"""What /v1/chat/completions refuses, and how it tells that an answer has failed."""

import json

import openai
import pytest

from adapmoe.errors import ContextOverflowError, NonFiniteError, ReadError
from adapmoe.serve.service import QueueFullError, RequestTimeoutError
from support.core.fake_service import MODEL, FakeService, client_of

PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "What is the weather in Oslo?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"metric": {"type": "boolean"}},
            "required": ["metric"],
            "additionalProperties": False,
        },
    },
}


def chat(client, **options):
    return client.chat.completions.create(model=MODEL, messages=[USER], **options)


def post(http, **body):
    return http.post(PATH, json={"model": MODEL, "messages": [USER], **body})


def error_of(response):
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]


@pytest.mark.parametrize("name", ["foo", "best_of", "top_kk", "min_tokens"])
def test_an_unknown_parameter_is_named(client, name):
    with pytest.raises(openai.BadRequestError, match=f"unknown parameter: '{name}'") as caught:
        chat(client, extra_body={name: 1})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        ({"audio": {}}, None, "'audio' is not supported"),
        ({"reasoning_effort": "low"}, None, "'reasoning_effort' is not supported"),
        ({"functions": []}, None, "'functions' is not supported"),
        ({"modalities": ["audio"]}, "modalities[0]", "should be 'text'"),
        ({"store": True}, "store", "should be False"),
        ({"service_tier": "flex"}, "service_tier", "'auto' or 'default'"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"n": True}, "n", "valid integer"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, None, "not both"),
        ({"seed": 2**64}, "seed", "less than"),
        ({"stop": ""}, "stop", "at least 1 character"),
        ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
        ({"stop": ["a", ""]}, "stop[1]", "at least 1 character"),
        ({"stop": "a" * 1001}, "stop", "at most 1000 characters"),
        ({"stop": ["a" * 1001]}, "stop[0]", "at most 1000 characters"),
        ({"logit_bias": {str(i): 0 for i in range(1025)}}, "logit_bias", "at most 1024 keys"),
        ({"presence_penalty": -2.1}, "presence_penalty", "greater than or equal to -2"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "match pattern"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "less than or equal to 100"),
        ({"logit_bias": {"4096": 1}}, None, "outside the vocabulary"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"top_logprobs": 2}, None, "only with logprobs"),
        ({"stream_options": {"include_usage": True}}, None, "only with stream"),
        ({"stream": "yes"}, "stream", "valid boolean"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": "hi"}, "messages", "valid list"),
        ({"messages": [{"role": "usr", "content": ""}]}, "messages[0]", "'usr'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": [{**USER, "x": 1}]}, "messages[0].x", "unknown parameter: 'messages[0].x'"),
        ({"messages": [{"role": "assistant"}]}, "messages[0]", "content or tool_calls"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
            "parts of type 'image_url' are not supported",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0]",
            "parts of type 'input_audio' are not supported",
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None, "surrogate pair"),
        ({"stop": "\ud800"}, "stop", "unicode"),
        ({"\ud800": 1}, None, "unicode"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom", "unknown parameter"),
        ({"tools": [TOOL, TOOL]}, None, "two of the name 'weather'"),
        ({"tool_choice": "required"}, None, "there are no tools"),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "time"}},
            },
            None,
            "no tool 'time'",
        ),
        (
            {"tools": [TOOL], "response_format": {"type": "json_object"}},
            None,
            "combined with tools",
        ),
        ({"response_format": {"type": "yaml"}}, "response_format", "'yaml'"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "strange"}},
                }
            },
            None,
            "strange",
        ),
        ({"chat_template_kwargs": {"messages": []}}, None, "may not set 'messages'"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_named(http, service, body, param, reason):
    response = http.post(
        PATH,
        content=json.dumps({"model": MODEL, "messages": [USER], **body}),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 400
    error = error_of(response)
    assert reason in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert service.answers == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"model": "tiny\xff"}', b"[" * 100_000,
     b'{"n": ' + b"9" * 5000 + b"}", b'{"temperature": NaN}', b'{"temperature": 1e999}'],
)  # fmt: skip
def test_what_is_no_request_at_all_is_refused(http, content):
    response = http.post(PATH, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


def test_a_body_of_another_type_is_refused(http):
    content = json.dumps({"model": MODEL, "messages": [USER]})
    response = http.post(PATH, content=content, headers={"Content-Type": "text/plain"})
    assert response.status_code == 400
    assert "Content-Type: application/json" in error_of(response)["message"]


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="'gpt'") as caught:
        client.chat.completions.create(model="gpt", messages=[USER])
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_is_a_rate_limit(service, client, stream):
    service.refuse = QueueFullError("64 requests wait", 7)
    with pytest.raises(openai.RateLimitError, match="64 requests wait") as caught:
        chat(client, stream=stream)
    assert caught.value.response.headers["retry-after"] == "7"


def test_too_long_a_prompt_is_refused(service, client):
    service.max_prompt = 10
    with pytest.raises(openai.BadRequestError, match="at most 10") as caught:
        chat(client)
    assert caught.value.code == "context_length_exceeded"
    service.max_prompt = 10_000
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 3000}]
        )
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="lower max_tokens"):
        chat(client, max_tokens=2048)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RequestTimeoutError("took 600 s"), 504),
        (ReadError("the disk failed"), 503),
        (NonFiniteError("NaN in layer 3"), 500),
        (ContextOverflowError("no room"), 500),
    ],
)
def test_an_answer_that_fails_says_so_in_whole_and_in_streams(service, http, error, status):
    service.texts = [error]
    response = post(http)
    assert response.status_code == status
    assert error_of(response)["message"] == str(error)
    streamed = post(http, stream=True)
    assert streamed.status_code == 200
    assert str(error) in streamed.text.split("\n\n")[-2]
    assert "[DONE]" not in streamed.text
    assert all(answer.closed for answer in service.answers)


def test_a_mistake_of_the_server_tells_nothing_of_itself(service, http, caplog):
    service.texts = [RuntimeError("secret")]
    response = post(http)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "a request failed" in caplog.text


def test_a_stream_that_fails_raises_in_the_client(service, client):
    service.texts = [ReadError("the disk failed")]
    with pytest.raises(openai.APIError, match="the disk failed"):
        list(chat(client, stream=True))


def test_a_template_that_refuses_is_the_requests_fault(open_llm):
    refusing = "{{ raise_exception('no such thing') }}"
    service = FakeService(open_llm(max_context=512), refusing)
    response = post(client_of(service))
    assert response.status_code == 400
    assert "no such thing" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [("{{ messages[0].content }}", "takes no tools"), ("{{ tools }}x", "does not know")],
)
def test_tools_need_a_template_with_a_known_syntax(open_llm, template, reason):
    response = post(client_of(FakeService(open_llm(max_context=512), template)), tools=[TOOL])
    assert response.status_code == 400
    assert reason in error_of(response)["message"]
