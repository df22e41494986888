# SPDX-License-Identifier: Apache-2.0
"""/v1/completions as OpenAI's client sees it, and as others might misuse it."""

import json

import openai
import pytest

from adapmoe.errors import ReadError
from adapmoe.serve.service import QueueFullError
from support.core.fake_service import MODEL

PATH = "/v1/completions"


def complete(client, prompt="Once upon", **options):
    return client.completions.create(model=MODEL, prompt=prompt, **options)


def test_a_text_goes_on_with_its_space(service, client):
    answer = complete(client)
    assert answer.object == "text_completion"
    assert answer.choices[0].text == " Hello there."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == len(service.asks[0].prompt)
    assert answer.usage.completion_tokens == 6
    [ask] = service.asks
    assert ask.prompt.tolist() == service.llm.tokenizer.encode("Once upon")
    assert not ask.answers
    assert ask.shown_special == frozenset()
    assert (ask.params[0].temperature, ask.params[0].max_tokens) == (1, 16)


def test_token_ids_are_a_prompt(service, client):
    complete(client, [1, 2, 3])
    assert service.asks[0].prompt.tolist() == [1, 2, 3]


def test_several_prompts_have_their_own_choices(service, client):
    service.texts = ["a0", "a1", "b0", "b1"]
    answer = complete(client, ["One", "Two words"], n=2)
    assert [choice.text.strip() for choice in answer.choices] == ["a0", "a1", "b0", "b1"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == sum(len(ask.prompt) for ask in service.asks)


def test_a_stream_has_the_same_texts(service, client):
    service.texts = ["a b c", "d e f"]
    texts = {0: "", 1: ""}
    chunks = list(
        complete(client, [[1, 2], [3]], stream=True, stream_options={"include_usage": True})
    )
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert {at: text.strip() for at, text in texts.items()} == {0: "a b c", 1: "d e f"}
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == 3
    assert all(answer.closed for answer in service.answers)


@pytest.mark.parametrize("text", ["Hello there.", "Ä 漢 🙂!"])
def test_logprobs_tell_tokens_and_where_they_begin(service, client, text):
    service.texts = [text]
    choice = complete(client, logprobs=2, max_tokens=100).choices[0]
    found = choice.logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset)
    assert found.tokens[-1] == "</s>"
    for token, top, logprob in zip(
        found.tokens, found.top_logprobs, found.token_logprobs, strict=True
    ):
        assert top[token] == logprob
        assert 2 <= len(top) <= 3
    for token, offset in zip(found.tokens[:-1], found.text_offset, strict=False):
        if not token.startswith("bytes:"):
            assert choice.text[offset : offset + len(token)] == token
    streamed = [
        chunk.choices[0].logprobs
        for chunk in complete(client, logprobs=2, max_tokens=100, stream=True)
    ]
    assert [token for piece in streamed for token in piece.tokens] == found.tokens
    assert [at for piece in streamed for at in piece.text_offset] == found.text_offset


def test_without_logprobs_there_are_none_and_with_0_only_the_chosen(client):
    assert complete(client).choices[0].logprobs is None
    found = complete(client, logprobs=0).choices[0].logprobs
    assert [list(top) for top in found.top_logprobs] == [[token] for token in found.tokens]


def test_what_would_change_nothing_is_accepted(client):
    complete(client, echo=False, best_of=1, suffix=None, user="u")


@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        ({"echo": True}, "echo", "should be False"),
        ({"best_of": 2}, "best_of", "should be 1"),
        ({"suffix": "x"}, "suffix", "should be None"),
        ({"foo": 1}, "foo", "unknown parameter: 'foo'"),
        ({"messages": []}, "messages", "unknown parameter: 'messages'"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"logprobs": True}, "logprobs", "valid integer"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": {}}, "prompt", "valid string"),
        ({"prompt": [[]]}, "prompt[0]", "at least 1 item"),
        ({"prompt": ["a", 1]}, "prompt[1]", "valid string"),
        ({"prompt": [1, "a"]}, "prompt[1]", "valid integer"),
        ({"prompt": [[1], "a"]}, "prompt[1]", "valid list"),
        ({"prompt": [4096]}, None, "4096"),
        ({"prompt": [-1]}, None, "-1"),
        ({"prompt": [2**70]}, None, "prompt[0]"),
        ({"prompt": ["a"] * 17}, "prompt", "at most 16 items"),
        ({"prompt": ["a"] * 9, "n": 2}, None, "more than 16 choices"),
        ({"prompt": "\ud800"}, None, "surrogate pair"),
        ({"prompt": "x " * 3000}, None, "takes at most 2048"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_named(http, service, body, param, reason):
    response = http.post(
        PATH,
        content=json.dumps({"model": MODEL, "prompt": "x", **body}),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 400
    error = response.json()["error"]
    assert reason in error["message"]
    assert error["param"] == param
    assert service.answers == []


def test_all_prompts_of_a_request_are_one_in_the_queue(service, client):
    complete(client, ["a", "b", "c"])
    assert len(service.answers) == 1
    service.refuse = QueueFullError("full", 0)
    with pytest.raises(openai.RateLimitError) as caught:
        complete(client, ["a", "b", "c"])
    assert caught.value.response.headers["retry-after"] == "1"


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt", prompt="x")


def test_a_stream_that_fails_raises_in_the_client(service, client):
    service.texts = [ReadError("the disk failed")]
    with pytest.raises(openai.APIError, match="the disk failed"):
        list(complete(client, stream=True))
    with pytest.raises(openai.InternalServerError, match="the disk failed"):
        complete(client)
