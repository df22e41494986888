# SPDX-License-Identifier: Apache-2.0
"""Templates with tools and variables, and templates that take too long."""

import functools
import json
import time

import pytest

from adapmoe import ChatTemplateError
from adapmoe.text import jinja_sandbox
from adapmoe.text.chat_template import ChatTemplates
from support.models.chat_templates import CHATML
from support.models.tool_templates import HERMES, MISTRAL_LIST

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
}
NAMED = ChatTemplates(
    "pack", {"default": "{{ 'plain' }}", "tool_use": "{{ 'with' }}{{ tools | length }}"}, {}
)


def templates(template):
    return ChatTemplates("pack", {"default": template}, {"bos_token": "<s>", "eos_token": "</s>"})


def test_a_template_writes_the_tools():
    assert templates(MISTRAL_LIST).render(HELLO, tools=[TOOL]) == (
        f"<s>[AVAILABLE_TOOLS] [{json.dumps(TOOL['function'])}][/AVAILABLE_TOOLS]"
        "[INST] Hello[/INST]"
    )
    text = templates(HERMES).render(HELLO, tools=[TOOL])
    assert json.dumps(TOOL) in text
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")


def test_a_round_trip_of_a_call_is_rendered():
    call = {"id": "abcdef123", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "abcdef123"},
    ]
    assert templates(MISTRAL_LIST).render(messages, tools=[TOOL]) == (
        '<s>[INST] Hello[/INST][TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, '
        '"id": "abcdef123"}]</s>[TOOL_RESULTS] {"content": "2", "call_id": "abcdef123"}'
        "[/TOOL_RESULTS]"
    )
    call["id"] = "short"
    with pytest.raises(ChatTemplateError, match="9 characters"):
        templates(MISTRAL_LIST).render(messages, tools=[TOOL])


def test_with_tools_the_template_for_tools_is_used():
    assert NAMED.render(HELLO) == "plain"
    assert NAMED.render(HELLO, tools=[]) == "plain"
    assert NAMED.render(HELLO, tools=[TOOL]) == "with1"
    assert NAMED.find(tools=True).startswith("{{ 'with' }}")
    with pytest.raises(ChatTemplateError, match="takes no tools"):
        NAMED.render(HELLO, "default", tools=[TOOL])


def test_a_template_that_takes_no_tools_says_so():
    with pytest.raises(ChatTemplateError, match=r"pack: .* takes no tools; leave them out"):
        templates(CHATML).render(HELLO, tools=[TOOL])
    assert "Hello" in templates(CHATML).render(HELLO, tools=[])
    assert "Hello" in templates(CHATML).render(HELLO)


@pytest.mark.parametrize(
    ("tools", "kind", "message"),
    [
        ({"type": "function"}, TypeError, "tools must be a list of mappings"),
        ("add", TypeError, "tools must be a list of mappings"),
        ([TOOL, "add"], TypeError, r"tools\[1\] must be a mapping"),
        ([{"function": object()}], ValueError, r"tools\[0\].*JSON"),
        ([{"function": float("nan")}], ValueError, r"tools\[0\].*JSON"),
    ],
)
def test_what_are_no_tools_is_refused(tools, kind, message):
    with pytest.raises(kind, match=message):
        templates(HERMES).render(HELLO, tools=tools)


def test_variables_reach_the_template():
    plain = templates(HERMES).render(HELLO)
    quiet = templates(HERMES).render(HELLO, variables={"enable_thinking": False})
    assert quiet == plain + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    "name", ["messages", "tools", "documents", "add_generation_prompt", "bos_token", "pad_token"]
)
def test_variables_cannot_replace_what_the_messages_or_the_pack_give(name):
    with pytest.raises(ValueError, match=f"variables may not set {name!r}"):
        templates(HERMES).render(HELLO, variables={name: "x"})


@pytest.mark.parametrize(
    ("variables", "kind"),
    [([("a", 1)], TypeError), ({1: 2}, TypeError), ({"a": object()}, ValueError)],
)
def test_variables_are_names_and_values_that_json_can_hold(variables, kind):
    with pytest.raises(kind, match="variables"):
        templates(HERMES).render(HELLO, variables=variables)


SLOW = [
    "{% for i in range(99999) %}{% set x = ('x' * 10 ** 6) | upper | length %}{% endfor %}x",
    "{{ ('x' * 10 ** 6) | upper | length }}" * 200,
    "{% macro f() %}{% set x = ('x' * 10 ** 6) | upper %}{% endmacro %}" + "{{ f() }}" * 200,
]


@pytest.mark.parametrize("template", SLOW, ids=["loop", "pieces", "macro"])
def test_a_slow_template_is_stopped(template, monkeypatch):
    begin = time.thread_time()
    with pytest.raises(jinja_sandbox.TemplateTimeoutError, match="takes too long"):
        jinja_sandbox.render(template, {}, seconds=0.05)
    assert time.thread_time() - begin < 1.0
    hasty = functools.partial(jinja_sandbox.render, seconds=0.05)
    monkeypatch.setattr(jinja_sandbox, "render", hasty)
    with pytest.raises(ChatTemplateError, match="TemplateTimeoutError: the template takes too"):
        templates(template).render(HELLO)


def test_the_time_limit_does_not_leak_into_the_next_rendering():
    with pytest.raises(jinja_sandbox.TemplateTimeoutError):
        jinja_sandbox.render("{{ 1 }}", {}, seconds=-1.0)
    assert jinja_sandbox.render("{{ 1 }}", {}) == "1"


def test_half_a_surrogate_pair_does_not_reach_the_tokenizer():
    call = {"function": {"name": "f", "arguments": {"a": "\ud800"}}}
    with pytest.raises(ChatTemplateError, match="surrogates not allowed"):
        templates(HERMES).render([*HELLO, {"role": "assistant", "tool_calls": [call]}])
