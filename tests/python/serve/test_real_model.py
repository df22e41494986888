# SPDX-License-Identifier: Apache-2.0
"""The server with a real model: official clients, and all that can go wrong while it serves."""

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from adapmoe import LLM, SamplingParams
from adapmoe.serve.engine import Engine
from adapmoe.serve.metrics import Metrics
from adapmoe.serve.service import Ask
from adapmoe_export import export_pack
from benchmarks.cgroup import memory_cgroup
from support.disk.faults import DELAY, ERROR, Shim, build_shim, make_control, preload
from support.machine.service_manager import ServiceManager
from support.machine.serving import Server

PROMPTS = [
    "The function returns",
    "def f(",
    "import os\n",
    "The first law of robotics",
    "class A:",
    "of the",
    "Once upon a time",
    "if (a < b) {",
]
LONG = "What does the function return if the list that it is given holds no number at all, and why?"
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] or m['tool_calls'] | tojson }}\n"
    "{% endfor %}{% if tools %}Tools, called as <tool_call>...</tool_call>: {{ tools | tojson }}\n"
    "{% endif %}[assistant] "
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"enum": ["Paris", "Oslo"]}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def pack(tiny_checkpoint, tmp_path_factory):
    """The small model with a chat template that knows tools."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(tiny_checkpoint, folder / "checkpoint")
    (folder / "checkpoint/chat_template.jinja").write_text(TEMPLATE)
    path = folder / "tiny.adapmoe"
    export_pack(folder / "checkpoint", path, experts="int4", dense="int8", group_size=32)
    return path


@pytest.fixture(scope="module")
def server(pack):
    with Server(pack, "--experts-resident", "50%", "--max-sequences", 8) as running:
        yield running


@pytest.fixture(scope="module")
def greedy(pack):
    """{prompt: what LLM.generate gives}."""
    with LLM(pack) as llm:
        return {prompt: llm.generate(prompt, max_tokens=24).text for prompt in PROMPTS}


def floor_bytes(pack):
    with LLM(pack, max_sequences=4) as llm:
        return llm.memory_split.floor_bytes


def test_the_tokens_are_those_of_generate(server, greedy):
    client = server.openai()
    for prompt in PROMPTS[:3]:
        done = client.completions.create(
            model=server.model, prompt=prompt, max_tokens=24, temperature=0
        )
        assert done.choices[0].text == greedy[prompt]


def test_they_are_the_same_while_seven_others_run(server, greedy):
    async def all_of():
        async with server.openai_async() as client:

            async def one(prompt):
                stream = await client.completions.create(
                    model=server.model, prompt=prompt, max_tokens=24, temperature=0, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*map(one, PROMPTS))

    assert dict(zip(PROMPTS, asyncio.run(all_of()), strict=True)) == greedy


def test_a_chat_with_the_official_clients(server, pack):
    question = [{"role": "user", "content": LONG}]
    with LLM(pack) as llm:
        expected = llm.chat(question, max_tokens=16).text
    done = server.openai().chat.completions.create(
        model=server.model, messages=question, max_completion_tokens=16, temperature=0
    )
    assert done.choices[0].message.content == expected
    assert done.usage.completion_tokens == 16
    greedy = {"temperature": 0}  # which this client has no argument for
    with server.anthropic().messages.stream(
        model=server.model, messages=question, max_tokens=16, extra_body=greedy
    ) as stream:
        assert "".join(stream.text_stream) == expected
        message = stream.get_final_message()
    assert message.stop_reason == "max_tokens"
    assert message.usage.cache_read_input_tokens > 16  # of the chat before
    events = server.openai().responses.create(
        model=server.model, input=LONG, max_output_tokens=16, temperature=0, stream=True
    )
    *_, last = events
    assert last.type == "response.incomplete"
    assert last.response.output_text == expected


def test_seeds_choices_logprobs_and_stops(server):
    client = server.openai()

    def sample(**options):
        return client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=12,
            **options,
        ).choices

    first, second = (sample(seed=5, n=3) for _ in range(2))
    texts = [choice.message.content for choice in first]
    assert texts == [choice.message.content for choice in second]
    assert len(set(texts)) > 1
    [choice] = sample(seed=5, logprobs=True, top_logprobs=3, temperature=0)
    assert len(choice.logprobs.content) == 12
    best = choice.logprobs.content[0]
    assert best.logprob == best.top_logprobs[0].logprob <= 0
    word = choice.message.content.split()[1]
    [stopped] = sample(temperature=0, stop=[word])
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == choice.message.content.partition(word)[0]


def test_a_schema_is_kept(server):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [1, 2, 3]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    done = server.openai().chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "Who?"}],
        max_tokens=64,
        seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "who", "schema": schema}},
    )
    found = json.loads(done.choices[0].message.content)
    assert set(found) == {"name", "age"}
    assert found["age"] in (1, 2, 3)


def test_a_tools_round_trip(server):
    client = server.openai()
    messages = [{"role": "user", "content": LONG}]
    done = client.chat.completions.create(
        model=server.model, messages=messages, tools=[WEATHER], tool_choice="required", seed=1
    )
    [call] = done.choices[0].message.tool_calls
    assert done.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["place"] in ("Paris", "Oslo")
    messages += [
        done.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    again = client.chat.completions.create(
        model=server.model, messages=messages, tools=[WEATHER], max_tokens=8
    )
    assert again.usage.prompt_tokens_details.cached_tokens > 16
    used = server.anthropic().messages.create(
        model=server.model,
        messages=[{"role": "user", "content": "How is the weather?"}],
        tools=[{"name": "weather", "input_schema": WEATHER["function"]["parameters"]}],
        tool_choice={"type": "any"},
        max_tokens=128,
    )
    assert used.stop_reason == "tool_use"
    assert used.content[-1].input["place"] in ("Paris", "Oslo")


def test_errors_are_those_of_the_clients(server):
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        server.openai().completions.create(model="gpt-4", prompt="x")
    with pytest.raises(openai.BadRequestError, match="unknown parameter: 'verbosity_level'"):
        server.openai().completions.create(
            model=server.model, prompt="x", extra_body={"verbosity_level": 1}
        )
    with pytest.raises(openai.BadRequestError) as refused:
        server.openai().completions.create(model=server.model, prompt="x " * 6000)
    assert refused.value.code == "context_length_exceeded"


def test_what_an_operator_asks(server):
    assert server.http.get("/health").json() == {"status": "ok"}
    assert server.http.get("/ready").json() == {"status": "ready"}
    paths = server.http.get("/openapi.json").json()["paths"]
    assert {"/v1/models", "/v1/messages", "/v1/responses", "/health", "/metrics"} <= set(paths)
    assert server.openai().models.list().data[0].id == server.model
    assert server.anthropic().models.list().data[0].id == server.model
    assert server.openai().models.retrieve(server.model).id == server.model
    assert server.metric("memory_bytes", part="kv") > 0


@contextmanager
def streaming(server, max_tokens=1500):
    """The lines of a streamed completion that has begun."""
    body = {
        "model": server.model,
        "prompt": "The function returns",
        "max_tokens": max_tokens,
        "stream": True,
        "ignore_eos": True,
    }
    url = f"{server.url}/v1/completions"
    with httpx.stream("POST", url, json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        assert next(lines).startswith("data: {")
        yield lines


def test_a_client_that_vanishes_ends_its_request(server):
    before = server.metric("choices_total", outcome="cancelled")
    with streaming(server):
        server.wait_for(lambda: server.metric("choices_running") == 1)
    server.wait_for(lambda: server.metric("choices_running") == 0)
    assert server.metric("choices_total", outcome="cancelled") == before + 1
    with pytest.raises(httpx.ReadTimeout):  # not streamed: the same
        httpx.post(
            f"{server.url}/v1/completions",
            json={"model": server.model, "prompt": "x", "max_tokens": 1500, "ignore_eos": True},
            timeout=0.3,
        )
    server.wait_for(lambda: server.metric("choices_running") == 0)
    assert server.metric("choices_total", outcome="cancelled") == before + 2


@pytest.mark.slow
def test_a_truncated_pack_fails_requests_until_it_is_whole_again(pack, tmp_path, greedy):
    path = tmp_path / "tiny.adapmoe"
    shutil.copytree(pack, path)
    experts = path / "experts.safetensors"
    data = experts.read_bytes()
    with Server(path, "--memory", floor_bytes(pack)) as server:
        assert server.complete(PROMPTS[0], 24)[1]["choices"][0]["text"] == greedy[PROMPTS[0]]
        os.truncate(experts, len(data) // 2)
        status, body = server.complete(PROMPTS[1], 24)
        assert status == 503
        assert "experts.safetensors" in body["error"]["message"]
        assert server.http.get("/health").status_code == 200
        experts.write_bytes(data)
        for prompt in PROMPTS[:3]:
            assert server.complete(prompt, 24)[1]["choices"][0]["text"] == greedy[prompt]


@pytest.mark.slow
def test_errors_of_the_disk_fail_requests_until_they_end(pack, tmp_path, greedy):
    shim = Shim(make_control(tmp_path / "control"))
    environment = preload(build_shim(tmp_path), tmp_path / "control")
    options = ("--memory", floor_bytes(pack), "--reader", "pread")
    with Server(pack, *options, environment=environment) as server:
        assert server.complete(PROMPTS[0], 8)[0] == 200
        shim.set(ERROR)
        statuses = {server.complete(prompt, 24)[0] for prompt in PROMPTS[:3]}
        assert statuses == {503}
        shim.clear()
        assert server.complete(PROMPTS[1], 24)[1]["choices"][0]["text"] == greedy[PROMPTS[1]]
        assert server.metric("choices_total", outcome="ReadError") == 3


@pytest.mark.slow
def test_a_slow_disk_is_alive_and_one_that_hangs_is_not(pack, tmp_path, greedy):
    """As the watchdog of systemd sees it."""
    shim = Shim(make_control(tmp_path / "control"))
    options = ("--memory", floor_bytes(pack), "--reader", "pread", "--read-depth", 1)
    with ServiceManager(tmp_path, watchdog_s=2) as systemd:
        environment = preload(build_shim(tmp_path), tmp_path / "control") | systemd.environment
        with Server(pack, *options, environment=environment) as server:
            assert systemd.signs_of_life(1.2) >= 2  # idle
            with ThreadPoolExecutor() as pool:
                shim.set(DELAY, delay_ms=150)
                slow = pool.submit(server.complete, PROMPTS[0], 4)
                assert systemd.signs_of_life(3.2) >= 5
                assert not slow.done()  # no token took less than the watchdog's time
                shim.set(DELAY, delay_ms=4000)
                time.sleep(1.0)
                assert systemd.signs_of_life(2.2) <= 1
                shim.clear()
                text = slow.result()[1]["choices"][0]["text"]
                assert text
                assert greedy[PROMPTS[0]].startswith(text)
            assert systemd.signs_of_life(1.2) >= 2


def test_sigterm_lets_running_answers_finish(pack):
    with Server(pack) as server, streaming(server, 300) as lines:
        server.process.terminate()
        found = [line for line in lines if line.startswith("data: ")]
        assert found[-1] == "data: [DONE]"
        assert json.loads(found[-2].removeprefix("data: "))["choices"][0]["finish_reason"]
        assert server.process.wait(20) == 0
        with pytest.raises(httpx.ConnectError):
            server.complete("x", 1)


@pytest.mark.slow
def test_after_sigkill_it_starts_again_at_the_same_port(pack, greedy):
    first = Server(pack)
    with streaming(first):
        assert first.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    with Server(pack, port=first.port) as second:
        assert second.complete(PROMPTS[0], 24)[1]["choices"][0]["text"] == greedy[PROMPTS[0]]


@pytest.mark.slow
def test_less_memory_while_it_serves_changes_no_token(pack):
    params = SamplingParams(max_tokens=200, temperature=1, seed=3, ignore_eos=True)
    with LLM(pack) as llm:
        prompts = [llm.tokenizer.encode(prompt) for prompt in PROMPTS[:4]]
        expected = [llm.generate(prompt, params).token_ids for prompt in prompts]

    async def run(llm, engine):
        answers = [
            engine.answer([Ask(np.array(prompt, np.int32), (params,), "")]) for prompt in prompts
        ]
        shrinking = threading.Thread(target=lambda: shrink(llm))
        shrinking.start()
        for answer in answers:
            async for _ in answer:
                pass
        shrinking.join()
        return [answer.results[0].token_ids for answer in answers]

    def shrink(llm):
        floor, most = llm.memory_split.floor_bytes, llm.memory_split.memory_bytes
        for size in (floor, most, floor):
            time.sleep(0.1)
            llm.set_memory(size)

    with LLM(pack, experts_resident=1.0, max_sequences=4) as llm:
        engine = Engine(llm, Metrics(llm), max_queue=8, timeout_s=60, gap_s=0.5)
        assert asyncio.run(run(llm, engine)) == expected
        assert llm.memory_split.memory_bytes == llm.memory_split.floor_bytes
        engine.stop()


@pytest.mark.root
@pytest.mark.slow
def test_a_limit_of_the_system_lowered_meanwhile_changes_no_token(pack, greedy):
    with memory_cgroup(2 << 30) as group, Server(pack, group=group) as server:
        assert server.complete(PROMPTS[0], 24)[1]["choices"][0]["text"] == greedy[PROMPTS[0]]
        with streaming(server):
            used = int((group.folder / "memory.usage_in_bytes").read_text())
            (group.folder / "memory.limit_in_bytes").write_text(str(used + (32 << 20)))
            for prompt in PROMPTS[1:4]:
                text = server.complete(prompt, 24)[1]["choices"][0]["text"]
                assert text == greedy[prompt]
        assert server.http.get("/ready").status_code == 200


def test_a_folder_that_is_no_pack_is_refused(tmp_path):
    with pytest.raises(AssertionError, match=r"manifest\.json"):
        Server(tmp_path)


@pytest.mark.slow
def test_prompts_and_answers_are_in_no_log(pack):
    running = Server(pack)
    with suppress(Exception):
        running.complete("a secret prompt", 8)
        running.complete("another secret", 8, nonsense=1)
        running.http.post("/v1/completions", content=b'{"prompt": "a secret that is not JSON')
    _, out, err = running.stop()
    assert "secret" not in out + err


def test_the_key_file_decides_who_may_ask(pack, tmp_path):
    keys = Path(tmp_path / "keys")
    keys.write_text("laptop:0123456789abcdef0\nphone:0123456789abcdef1\n")
    keys.chmod(0o600)
    with Server(pack, "--keys", keys) as server:
        with pytest.raises(openai.AuthenticationError):
            server.openai().models.list()
        cached = []
        for secret in ("0123456789abcdef0", "0123456789abcdef1", "0123456789abcdef0"):
            done = server.openai(api_key=secret).completions.create(
                model=server.model, prompt=LONG, max_tokens=4
            )
            cached.append(done.usage.prompt_tokens_details.cached_tokens)
        assert cached[:2] == [0, 0]  # no prefix of another key's
        assert cached[2] > 16
