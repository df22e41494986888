# SPDX-License-Identifier: Apache-2.0
"""Bodies of megabytes that mean harm are refused soon, and not by working through all of them."""

import asyncio
import json
import threading
import time

import pytest

from adapmoe.serve.body import MAX_BRACKETS
from adapmoe.serve.prompting import prepare
from support.core.fake_service import MODEL

SIZE = 8 << 20
CHAT = "/v1/chat/completions"
# The parameter of each route that holds most of a request, and what else it needs.
ROUTES = {
    CHAT: ("messages", {}),
    "/v1/completions": ("prompt", {}),
    "/v1/responses": ("input", {}),
    "/v1/messages": ("messages", {"max_tokens": 5}),
    "/v1/messages/count_tokens": ("messages", {}),
}
USER = {"role": "user", "content": "x"}
PART = '{"type":"text","text":""}'

pytestmark = pytest.mark.slow  # megabytes each


def filled(item):
    """A list of so many items that it has 8 MiB."""
    return f"[{','.join([item] * (SIZE // (len(item) + 1)))}]"


def body_of(path, value):
    """A request whose largest parameter has a value in JSON."""
    name, more = ROUTES[path]
    return json.dumps({"model": MODEL, **more, name: "@"}).replace('"@"', value)


def post(http, path, body):
    began = time.monotonic()
    response = http.post(path, content=body, headers={"Content-Type": "application/json"})
    # A loose bound: without limits, these take up to a minute.
    assert time.monotonic() - began < 5
    return response


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("item", ["{}", '"x"'])
def test_a_list_of_millions_is_refused(http, service, path, item):
    response = post(http, path, body_of(path, filled(item)))
    assert response.status_code == 400
    assert len(response.text) < 1000
    assert service.answers == []


@pytest.mark.parametrize("path", [path for path in ROUTES if path != "/v1/completions"])
def test_too_many_messages_are_refused(http, path):
    message = json.dumps({"role": "user", "content": "x" * 200})
    response = post(http, path, body_of(path, filled(message)))
    assert response.status_code == 400
    assert "at most 4096 items" in response.text


@pytest.mark.parametrize("path", [path for path in ROUTES if path != "/v1/completions"])
def test_too_many_parts_in_all_are_refused(http, path):
    part = PART.replace("text", "input_text", 1) if path == "/v1/responses" else PART
    message = f'{{"role":"user","content":[{",".join([part] * 1024)}]}}'
    response = post(http, path, body_of(path, f"[{','.join([message] * 290)}]"))
    assert response.status_code == 400
    assert "more than 100000 parts" in response.text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (f"[{filled('1')}]", "at most 1048576 items"),
        (json.dumps([1] * (1 << 20)), "takes at most 2048"),
        (json.dumps("x " * (SIZE // 2)), "takes at most 2048"),
        (json.dumps(["x " * 500_000] * 8), "takes at most 2048"),
    ],
    ids=["row", "ids", "text", "texts"],
)
def test_a_prompt_of_megabytes_is_refused(http, value, reason):
    response = post(http, "/v1/completions", body_of("/v1/completions", value))
    assert response.status_code == 400
    assert reason in response.text


@pytest.mark.parametrize(
    "name",
    [
        None,
        "logit_bias",
        "metadata",
        "chat_template_kwargs",
    ],
)
def test_an_object_of_very_many_keys_is_refused(http, name):
    many = {f"k{at}": 0 for at in range(300_000)}
    body = {"model": MODEL, "messages": [USER]}
    response = post(http, CHAT, json.dumps(many if name is None else {**body, name: many}))
    assert response.status_code == 400
    assert len(response.text) < 1000


def test_brackets_are_counted_before_anything_is_parsed(http):
    response = post(http, CHAT, b"[" * (MAX_BRACKETS + 1))
    assert response.status_code == 400
    assert f"at most {MAX_BRACKETS} can be" in response.json()["error"]["message"]
    assert "at most" not in post(http, CHAT, b"[" * MAX_BRACKETS).text


@pytest.mark.parametrize("path", ROUTES)
def test_a_text_that_must_be_too_long_is_not_even_encoded(http, service, path, monkeypatch):
    def encode(*args, **options):
        raise AssertionError("a long text was encoded")

    text = "word " * (service.max_prompt * service.llm.tokenizer.longest_token_bytes // 5 + 1)
    monkeypatch.setattr(service.llm.tokenizer, "encode", encode)
    value = [{"role": "user", "content": text}]
    if path == "/v1/completions":
        value = [text]
    response = post(http, path, body_of(path, json.dumps(value)))
    assert response.status_code == 400
    assert f"takes at most {service.max_prompt} tokens" in response.text


def test_no_token_has_more_bytes_than_the_longest(tokenizer):
    sizes = [len(tokenizer.token_bytes.lookup(i, at_start=False)) for i in range(4096)]
    assert max(sizes) <= tokenizer.longest_token_bytes < 1000


def test_two_requests_are_prepared_at_once():
    running, most = 0, 0
    lock = threading.Lock()

    def work():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    async def run():
        await asyncio.gather(*(prepare(work) for _ in range(8)))

    asyncio.run(run())
    assert most == 2
