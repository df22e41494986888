# SPDX-License-Identifier: Apache-2.0
"""/v1/messages as Anthropic's client sees it, and as others might misuse it."""

import json
import threading

import pytest

from adapmoe.errors import NonFiniteError, ReadError
from adapmoe.serve.messages_request import MessagesRequest
from adapmoe.serve.service import QueueFullError, RequestTimeoutError
from support.core.fake_service import MODEL, FakeService, client_of

PATH = "/v1/messages"
USER = {"role": "user", "content": "What is the weather in Oslo?"}
TOOL = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"metric": {"type": "boolean"}},
        "required": ["metric"],
        "additionalProperties": False,
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"metric": true}}\n</tool_call>'


def ask(claude, **options):
    return claude.messages.create(**{
        "model": MODEL, "max_tokens": 100, "messages": [USER], **options,
    })  # fmt: skip


def stream(claude, **options):
    """All events, and the message that the client makes of them."""
    with claude.messages.stream(
        **{"model": MODEL, "max_tokens": 100, "messages": [USER], **options}
    ) as events:
        return list(events), events.get_final_message()


def without_id(message):
    return message.model_dump(exclude={"id"})


def test_a_message_has_text_reason_and_usage(service, claude):
    service.cached_tokens = 4
    answer = ask(claude, system="Be brief.")
    assert [block.text for block in answer.content] == ["Hello there."]
    assert (answer.stop_reason, answer.stop_sequence, answer.model) == ("end_turn", None, MODEL)
    assert answer.usage.input_tokens == len(service.asks[0].prompt) - 4
    assert answer.usage.cache_read_input_tokens == 4
    assert answer.usage.output_tokens == 6
    assert service.prompt.strip().startswith("<|system|>Be brief.\n<|user|>What")
    assert service.answers[0].closed


@pytest.mark.parametrize(
    "text", ["Hello there.", "<think>\nHmm.\n</think>\nYes.", f"So.{CALL}{CALL}", ""]
)
def test_a_stream_adds_up_to_the_message(service, claude, text):
    service.texts = [text]
    whole = ask(claude, tools=[TOOL])
    events, final = stream(claude, tools=[TOOL])
    kinds = [block.type for block in whole.content]
    assert [block.type for block in final.content] == kinds
    for ours, theirs in zip(final.content, whole.content, strict=True):
        exclude = {"id", "parsed_output"}
        assert ours.model_dump(exclude=exclude) == theirs.model_dump(exclude=exclude)
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert events[0].type == "message_start"
    assert events[-1].type == "message_stop"
    starts = [event.index for event in events if event.type == "content_block_start"]
    stops = [event.index for event in events if event.type == "content_block_stop"]
    assert starts == stops == list(range(len(kinds)))


def test_parameters_reach_the_sampling(service, claude):
    ask(
        claude,
        max_tokens=5,
        stop_sequences=["x"],
        metadata={"user_id": "u"},
        service_tier="auto",
        extra_body={"temperature": 0.5, "top_k": 7, "top_p": 0.9},
    )
    params = service.asks[0].params[0]
    assert (params.max_tokens, params.stop_strings) == (5, ("x",))
    assert (params.temperature, params.top_k, params.top_p) == (0.5, 7, 0.9)
    ask(claude)
    assert service.asks[1].params[0].temperature == 1


def test_a_stop_sequence_is_told(claude):
    answer = ask(claude, stop_sequences=["x", "there"])
    assert (answer.content[0].text, answer.stop_reason) == ("Hello ", "stop_sequence")
    assert answer.stop_sequence == "there"
    assert stream(claude, stop_sequences=["there"])[1].stop_sequence == "there"


def test_the_limit_and_the_end_of_the_context_are_told_apart(service, claude):
    assert ask(claude, max_tokens=2).stop_reason == "max_tokens"
    service.texts = ["word " * 3000]
    assert ask(claude, max_tokens=8000).stop_reason == "model_context_window_exceeded"


def test_tools_round_trip(service, claude):
    service.texts = [CALL]
    answer = ask(claude, tools=[TOOL])
    assert "The weather of a city." in service.prompt
    [call] = answer.content
    assert answer.stop_reason == "tool_use"
    assert (call.type, call.name, call.input) == ("tool_use", "weather", {"metric": True})
    service.texts = ["It rains."]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    more = {"type": "text", "text": "Well?"}
    ask(
        claude,
        tools=[TOOL],
        messages=[
            USER,
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [result, more]},
        ],
    )
    assert f"<|tool|>rain of {call.id}\n<|user|>Well?" in service.prompt
    assert '{"name": "weather", "arguments": {"metric": true}}' in service.prompt


def test_results_of_tools_may_be_parts_empty_or_errors(service, claude):
    call = {"type": "tool_use", "id": "a", "name": "weather", "input": {}}
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": parts},
        {"type": "tool_result", "tool_use_id": "b"},
        {"type": "tool_result", "tool_use_id": "c", "content": "no net", "is_error": True},
    ]
    ask(
        claude,
        messages=[
            USER,
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": results},
        ],
    )
    tail = "<|tool|>one\ntwo of a\n<|tool|> of b\n<|tool|>Error: no net of c\n"
    assert tail in service.prompt


def test_messages_of_one_role_in_a_row_are_one(service, claude):
    call = {"type": "tool_use", "id": "a", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": "rain"}
    ask(
        claude,
        messages=[
            USER,
            {"role": "user", "content": [{"type": "text", "text": "Now?"}]},
            {"role": "assistant", "content": "Let me see."},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": "Well?"},
            {"role": "user", "content": [result]},
        ],
    )
    assert service.prompt.strip().startswith(
        f"<|user|>{USER['content']}\nNow?\n<|assistant|>Let me see.<tool_call>"
    )
    assert "<|tool|>rain of a\n<|user|>Well?\n<|assistant|>" in service.prompt


def test_what_has_no_effect_here_is_accepted(claude):
    examples = {"input_examples": [{"metric": True}], "eager_input_streaming": True}
    thinking = {"type": "enabled", "budget_tokens": 1024, "display": "summarized"}
    ask(claude, tools=[{**TOOL, **examples}], thinking=thinking)


def test_a_turn_is_made_once_and_not_in_the_event_loop(service, claude, monkeypatch):
    answer, turn = service.answer, MessagesRequest.turn
    loops, makers = [], []

    def answered(asks):
        loops.append(threading.get_ident())
        return answer(asks)

    def made(self):
        makers.append(threading.get_ident())
        return turn(self)

    monkeypatch.setattr(service, "answer", answered)
    monkeypatch.setattr(MessagesRequest, "turn", made)
    ask(claude)
    assert len(makers) == len(loops) == 1
    assert makers != loops


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_forced_call_comes_from_random_logits(service, claude, choice):
    service.texts = [None]
    answer = ask(claude, tools=[TOOL], tool_choice=choice)
    assert answer.stop_reason == "tool_use"
    assert answer.content[0].input.keys() == {"metric"}


def test_choices_of_tools_can_forbid_calls_or_more_than_one(service, claude):
    service.texts = [CALL + CALL]
    answer = ask(claude, tools=[TOOL], tool_choice={"type": "none"})
    assert answer.content[0].type == "text"
    auto = {"type": "auto", "disable_parallel_tool_use": True}
    assert len(ask(claude, tools=[TOOL], tool_choice=auto).content) == 1


def test_thinking_is_a_block_and_comes_back(service, claude):
    service.texts = ["Hmm.</think>Yes."]
    answer = ask(claude, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)
    thinking, text = answer.content
    assert (thinking.type, thinking.thinking, text.text) == ("thinking", "Hmm.", "Yes.")
    ask(
        claude,
        messages=[USER, {"role": "assistant", "content": answer.content}, USER],
        thinking={"type": "disabled"},
    )
    assert "<|assistant|><think>Hmm.</think>Yes." in service.prompt


def test_a_schema_makes_random_logits_fit(service, claude):
    service.texts = [None]
    wanted = {"type": "json_schema", "schema": TOOL["input_schema"]}
    answer = ask(claude, output_config={"format": wanted})
    assert json.loads(answer.content[0].text).keys() == {"metric"}


def test_tokens_are_counted_as_messages_count_them(claude):
    body = {"messages": [USER], "system": "Be brief.", "tools": [TOOL]}
    counted = claude.messages.count_tokens(model=MODEL, **body)
    assert counted.input_tokens == ask(claude, **body).usage.input_tokens


def test_where_to_cache_is_accepted_everywhere(claude):
    cached = {"cache_control": {"type": "ephemeral"}}
    text = {"type": "text", "text": "x", **cached}
    ask(
        claude,
        system=[text],
        messages=[{"role": "user", "content": [text]}],
        tools=[{**TOOL, **cached}],
        **cached,
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"foo": 1}, "unknown parameter: 'foo'"),
        ({"mcp_servers": []}, "'mcp_servers' is not supported"),
        ({"container": "c"}, "'container' is not supported"),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"max_tokens": None}, "max_tokens: "),
        ({"temperature": 1.5}, "temperature: "),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0]: "),
        ({"messages": [USER, {"role": "assistant", "content": "It"}]}, "must be the user's"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content: "),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages[0].content[0]: parts of type 'image' are not supported",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text: ",
        ),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "'bash_20250124'"),
        ({"tools": [{**TOOL, "name": "a b"}]}, "tools[0].name: "),
        ({"tool_choice": {"type": "any"}}, "there are no tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "no tool 'x'"),
        ({"output_config": {"effort": "low"}}, "'effort' is not supported"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type: "),
        ({"stop_sequences": [""]}, "stop_sequences[0]: "),
        ({"stop_sequences": ["a" * 1001]}, "at most 1000 characters"),
        ({"thinking": {"type": "enabled", "display": "some"}}, "thinking.display: "),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "'defer_loading' is not supported"),
        ({"tools": [{**TOOL, "allowed_callers": ["x"]}]}, "'allowed_callers' is not supported"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_named(http, service, body, reason):
    body = {"model": MODEL, "max_tokens": 100, "messages": [USER], **body}
    response = http.post(PATH, json=body)
    assert response.status_code == 400
    assert response.json()["type"] == "error"
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert reason in error["message"]
    assert service.answers == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("path", [PATH, f"{PATH}/count_tokens"])
def test_what_is_no_request_at_all_is_refused(http, path, content):
    response = http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_thinking_needs_a_template_that_has_it(open_llm):
    http = client_of(FakeService(open_llm(max_context=512), "{{ messages[0].content }}"))
    body = {"model": MODEL, "max_tokens": 9, "messages": [USER], "thinking": {"type": "adaptive"}}
    response = http.post(PATH, json=body)
    assert response.status_code == 400
    assert "has no marks for it" in response.json()["error"]["message"]


def test_another_model_is_not_found(claude):
    import anthropic  # takes seconds to load

    with pytest.raises(anthropic.NotFoundError):
        ask(claude, model="claude")


def test_a_full_queue_is_a_rate_limit(service, claude):
    import anthropic  # takes seconds to load

    service.refuse = QueueFullError("64 requests wait", 7)
    with pytest.raises(anthropic.RateLimitError, match="64 requests wait") as caught:
        ask(claude)
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RequestTimeoutError("took 600 s"), 504, "timeout_error"),
        (ReadError("the disk failed"), 503, "api_error"),
        (NonFiniteError("NaN in layer 3"), 500, "api_error"),
    ],
)
def test_an_answer_that_fails_says_so_in_whole_and_in_streams(
    service, http, claude, error, status, kind
):
    import anthropic  # takes seconds to load

    service.texts = [error]
    body = {"model": MODEL, "max_tokens": 100, "messages": [USER]}
    response = http.post(PATH, json=body)
    assert response.status_code == status
    assert response.json()["error"] == {"type": kind, "message": str(error)}
    with pytest.raises(anthropic.APIStatusError, match=str(error)):
        stream(claude)
    assert all(answer.closed for answer in service.answers)
