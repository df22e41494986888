# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the engine of the server: scripted texts, sampled as the engine samples."""

import asyncio

import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient

from adapmoe.serve import chat, completions, messages, responses
from adapmoe.serve.constraint import Constraints
from adapmoe.serve.errors import install_errors
from adapmoe.text.chat_template import ChatTemplates

MODEL = "tiny"

# Tools and tool calls as Hermes and Qwen write them, and reasoning.
TEMPLATE = r"""
{%- for tool in tools or [] %}<tool>{{ tool.function | tojson }}</tool>
{% endfor -%}
{%- for message in messages %}<|{{ message.role }}|>
{%- if message.reasoning_content is defined %}<think>{{ message.reasoning_content }}</think>
{%- endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor %}
{%- if message.tool_call_id %} of {{ message.tool_call_id }}{% endif %}
{{- '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>
{%- if enable_thinking %}<think>
{% endif %}
{%- endif %}"""


class FakeService:
    """Answers requests with `texts`, one per choice and request, in order; the last one again.

    None instead of a text: whatever the random logits, and constraints, give. An exception instead
    of a text is raised after two tokens. `refuse`: an exception to raise instead of answering.
    """

    model_name = MODEL

    def __init__(self, llm, template=TEMPLATE):
        self.llm = llm
        self.max_prompt = llm.max_context
        self.constraints = Constraints(llm.path, llm.vocab_size, llm.tokenizer.eos_ids)
        self.texts = ["Hello there."]
        self.refuse = None
        self.cached_tokens = 0
        self.hangs = False  # after the first token
        self.asks = []
        self.answers = []
        if template is not None:
            llm._templates = ChatTemplates(llm.path, {"default": template}, {})

    def answer(self, asks):
        if self.refuse is not None:
            raise self.refuse
        self.asks += asks
        self.answers.append(FakeAnswering(self, asks))
        return self.answers[-1]

    def next_text(self):
        return self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]

    @property
    def prompt(self):
        """The text of the last request's prompt."""
        return self.llm.tokenizer.decode(self.asks[-1].prompt.tolist())


class FakeAnswering:
    """Takes the choices one token further in turn."""

    def __init__(self, service, asks):
        llm = service.llm
        every = [(ask, params) for ask in asks for params in ask.params]
        self.requests = [
            llm.scheduler.new_request(
                index,
                ask.prompt,
                params,
                llm.tokenizer,
                answers=ask.answers,
                shown=ask.shown_special,
            )
            for index, (ask, params) in enumerate(every)
        ]
        self.prompt_tokens = sum(len(ask.prompt) for ask in asks)
        self.scripts = [service.next_text() for _ in self.requests]
        self.cached_tokens = service.cached_tokens
        self.hangs = service.hangs
        self.closed = False
        self._chunks = self._run(llm.vocab_size, llm.tokenizer)

    @property
    def results(self):
        return [request.result() for request in self.requests]

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await self._chunks.__anext__()

    async def aclose(self):
        self.closed = True

    async def _run(self, vocab_size, tokenizer):
        rng = np.random.default_rng(0)
        ids = [_tokens(text, tokenizer) for text in self.scripts]
        step = 0
        while running := [r for r in self.requests if r.finish_reason is None]:
            for request in running:
                script = self.scripts[request.index]
                if isinstance(script, Exception) and step == 2:
                    raise script
                logits = rng.normal(0, 2, vocab_size).astype(np.float32)
                if script is not None:
                    rest = ids[request.index][step:]
                    token = rest[0] if rest else min(tokenizer.eos_ids)
                    if isinstance(script, Exception):
                        token = tokenizer.encode(" and", add_bos=False)[-1]
                    logits[token] = 100
                request.advance(logits)
                if chunk := request.take_chunk():
                    yield chunk
                    await asyncio.sleep(0)
            if self.hangs:
                await asyncio.Event().wait()
            step += 1


def _tokens(text, tokenizer):
    if not isinstance(text, str):
        return []
    ids = tokenizer.encode(text, add_bos=False)
    # A token that only stands for the beginning of a text would break a constraint.
    return ids[1:] if ids and tokenizer.decode(ids[:1]) == "" else ids


def make_app(service):
    """The APIs on a service, without anything else."""
    app = FastAPI()
    install_errors(app)
    for api in (chat, completions, responses, messages):
        app.include_router(api.router(service))
    return app


def client_of(service):
    """An HTTP client of the APIs, which the official clients can use as theirs."""
    return TestClient(make_app(service), raise_server_exceptions=False)
