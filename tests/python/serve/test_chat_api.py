# SPDX-License-Identifier: Apache-2.0
"""/v1/chat/completions as OpenAI's client sees it."""

import asyncio
import json

import pydantic
import pytest

from support.core.fake_service import MODEL, make_app

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
CALL = '<tool_call>\n{"name": "weather", "arguments": {"metric": true}}\n</tool_call>'


def chat(client, **options):
    return client.chat.completions.create(model=MODEL, messages=[USER], **options)


def post(http, **body):
    return http.post(PATH, json={"model": MODEL, "messages": [USER], **body})


def test_an_answer_has_text_ending_and_usage(service, client):
    service.cached_tokens = 3
    answer = chat(client)
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.choices[0].message.content == "Hello there."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == len(service.asks[0].prompt)
    assert answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert service.answers[0].closed


def test_a_stream_has_the_same_text_and_ends_with_usage(client):
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts) == "Hello there."
    assert sum(text != "" for text in texts) > 3
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 6


def test_a_stream_without_options_has_no_usage_and_ends_with_done(http):
    response = post(http, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    assert '"usage"' not in response.text


def test_parameters_reach_the_sampling(service, client):
    chat(
        client,
        max_completion_tokens=5,
        temperature=0.5,
        top_p=0.9,
        seed=-1,
        stop="x",
        presence_penalty=0.1,
        frequency_penalty=-0.2,
        logit_bias={"17": -100},
        n=2,
        user="u",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        extra_body={"top_k": 7, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": False},
    )
    first, second = service.asks[0].params
    assert (first.max_tokens, first.temperature, first.top_p) == (5, 0.5, 0.9)
    assert (first.seed, second.seed) == (2**64 - 1, 2**64)
    assert first.stop_strings == ("x",)
    assert (first.presence_penalty, first.frequency_penalty) == (0.1, -0.2)
    assert first.logit_bias == {17: -100}
    assert (first.top_k, first.min_p, first.repetition_penalty) == (7, 0.1, 1.1)


def test_without_parameters_openais_defaults_hold_and_the_context_limits(service, client):
    chat(client)
    [ask] = service.asks
    assert ask.key == ""
    assert ask.answers
    assert (ask.params[0].temperature, ask.params[0].top_p, ask.params[0].seed) == (1, 1, None)
    assert ask.params[0].max_tokens == service.llm.max_context - len(ask.prompt)


def test_several_choices_differ_and_stream_side_by_side(service, client):
    service.texts = ["One.", "Two.", "One.", "Two."]
    answer = chat(client, n=2)
    assert [choice.message.content for choice in answer.choices] == ["One.", "Two."]
    service.texts = ["One.", "Two."]
    texts = {0: "", 1: ""}
    for chunk in chat(client, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "One.", 1: "Two."}


def test_a_stop_string_ends_the_text_and_the_limit_is_length(client):
    assert chat(client, stop=["there"]).choices[0].message.content == "Hello "
    answer = chat(client, max_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 2


@pytest.mark.parametrize("text", ["Hello there.", "Ä 漢 🙂!", " x"])
def test_logprobs_have_one_entry_per_token_whose_bytes_make_the_text(service, client, text):
    service.texts = [text]
    whole = chat(client, logprobs=True, top_logprobs=2).choices[0]
    *tokens, end = whole.logprobs.content
    assert end.token == "</s>"
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == whole.message.content
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    assert all(token.top_logprobs[0].token == token.token for token in tokens)
    assert all(token.logprob <= 0 for token in tokens)
    streamed = [
        entry.model_dump()
        for chunk in chat(client, logprobs=True, top_logprobs=2, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert streamed == [entry.model_dump() for entry in whole.logprobs.content]


def test_roles_and_parts_reach_the_template(service, client):
    client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
        ],
    )
    assert service.prompt.strip().startswith("<|system|>Be brief.\n<|user|>a\nb\n<|assistant|>")


def test_tools_round_trip(service, client):
    service.texts = [CALL]
    answer = chat(client, tools=[TOOL])
    assert "The weather of a city." in service.prompt
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == {"metric": True}
    service.texts = ["It rains."]
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    answer = client.chat.completions.create(
        model=MODEL, messages=[USER, choice.message, result], tools=[TOOL]
    )
    assert answer.choices[0].message.content == "It rains."
    assert f"<|tool|>rain of {call.id}" in service.prompt
    assert '{"name": "weather", "arguments": {"metric": true}}' in service.prompt


def test_a_call_without_its_closing_mark_is_a_call(service, client):
    service.texts = ['So.<tool_call>\n{"name": "weather"}\n']
    choice = chat(client, tools=[TOOL]).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("So.", "tool_calls")
    assert choice.message.tool_calls[0].function.arguments == "{}"


def test_a_function_without_parameters_takes_none_and_an_empty_schema_anything(service, client):
    function = {"type": "function", "function": {"name": "f"}}
    chat(client, tools=[function])
    assert '"additionalProperties": false' in service.prompt
    chat(client, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    assert '"parameters": {"type": "object", "properties": {}}}' in service.prompt


def test_a_streamed_call_comes_as_deltas(service, client):
    service.texts = [f"Let me see.{CALL}{CALL}"]
    with client.chat.completions.stream(model=MODEL, messages=[USER], tools=[TOOL]) as stream:
        final = stream.get_final_completion()
    message = final.choices[0].message
    assert final.choices[0].finish_reason == "tool_calls"
    assert message.content == "Let me see."
    assert [json.loads(c.function.arguments) for c in message.tool_calls] == [{"metric": True}] * 2
    assert len({call.id for call in message.tool_calls}) == 2


def test_without_parallel_calls_only_the_first_is_kept(service, client):
    service.texts = [CALL + CALL]
    answer = chat(client, tools=[TOOL], parallel_tool_calls=False)
    assert len(answer.choices[0].message.tool_calls) == 1


def test_without_choice_of_tools_calls_are_text(service, client):
    service.texts = [CALL]
    answer = chat(client, tools=[TOOL], tool_choice="none")
    assert answer.choices[0].message.content == CALL
    assert answer.choices[0].finish_reason == "stop"
    assert "The weather of a city." not in service.prompt


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_forced_call_comes_from_random_logits(service, client, choice):
    service.texts = [None]
    answer = chat(client, tools=[TOOL], tool_choice=choice)
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments).keys() == {"metric"}


class Verdict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    good: bool
    kind: bool


def test_a_schema_makes_random_logits_parse(service, client):
    service.texts = [None]
    answer = client.chat.completions.parse(
        model=MODEL, messages=[USER], response_format=Verdict, n=2
    )
    assert all(isinstance(choice.message.parsed, Verdict) for choice in answer.choices)
    first, second = service.asks[0].params
    assert first.logits_processors[0] is not second.logits_processors[0]


def test_json_mode_constrains_the_sampling(service, client):
    service.texts = ["{}"]
    assert chat(client, response_format={"type": "json_object"}).choices[0].message.content == "{}"
    assert len(service.asks[0].params[0].logits_processors) == 1
    chat(client, response_format={"type": "text"})
    assert service.asks[1].params[0].logits_processors == ()


def test_reasoning_is_told_from_the_answer(service, client):
    service.texts = ["<think>\nHmm.\n</think>\n\nYes."]
    answer = chat(client)
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content) == ("Yes.", "Hmm.\n")
    assert 0 < answer.usage.completion_tokens_details.reasoning_tokens < 20
    deltas = [chunk.choices[0].delta for chunk in chat(client, stream=True)]
    assert "".join(getattr(d, "reasoning_content", "") for d in deltas) == "Hmm.\n"
    assert "".join(d.content or "" for d in deltas) == "Yes."


def test_template_variables_begin_the_reasoning_in_the_prompt(service, client):
    service.texts = ["Hmm.</think>Yes."]
    answer = chat(client, extra_body={"chat_template_kwargs": {"enable_thinking": True}})
    assert answer.choices[0].message.reasoning_content == "Hmm."


def test_a_constraint_waits_for_the_end_of_the_reasoning(service, client):
    service.texts = ["Hmm.</think>{}"]
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    answer = chat(client, response_format={"type": "json_object"}, extra_body=thinking)
    assert answer.choices[0].message.reasoning_content == "Hmm."
    assert json.loads(answer.choices[0].message.content) == {}


def test_the_key_of_a_request_reaches_the_engine(service):
    app = make_app(service)

    async def with_key(scope, receive, send):
        scope.setdefault("state", {})["key"] = "kitchen"
        await app(scope, receive, send)

    async def run():
        return await call(with_key, {"model": MODEL, "messages": [USER]})

    assert asyncio.run(run())[0]["status"] == 200
    assert service.asks[0].key == "kitchen"


async def call(app, body, gone=None):
    """Call an ASGI app by hand; `gone`: an event after which the client has left."""
    sent = []
    pending = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive():
        if pending:
            return pending.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await asyncio.wait_for(app(scope, receive, send), 10)
    return sent


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_answer(service, stream):
    service.hangs = True

    async def run():
        gone = asyncio.Event()
        asyncio.get_running_loop().call_later(0.2, gone.set)
        return await call(make_app(service), {
            "model": MODEL, "messages": [USER], "stream": stream,
        }, gone)  # fmt: skip

    sent = asyncio.run(run())
    assert service.answers[0].closed
    assert len(service.answers[0].results[0].token_ids) == 1
    assert sent[0]["status"] == (200 if stream else 499)


def test_the_interface_describes_itself(service):
    paths = make_app(service).openapi()["paths"]
    assert paths.keys() >= {PATH, "/v1/completions", "/v1/responses", "/v1/messages"}
