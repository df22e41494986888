# SPDX-License-Identifier: Apache-2.0
"""Where templates come from, what messages are, and what a hostile template cannot do."""

import json

import pytest

from adapmoe import ChatTemplateError, PackError
from adapmoe.text.chat_template import ChatTemplates, check_messages

HELLO = [{"role": "user", "content": "Hello"}]


def render(template, messages=HELLO):
    return ChatTemplates("pack", {"default": template}, {"bos_token": "<s>"}).render(messages)


def write_config(directory, **config):
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def test_a_template_stands_in_the_configuration(tmp_path):
    write_config(tmp_path, chat_template="{{ eos_token }}!", eos_token={"content": "</s>"})
    assert ChatTemplates.from_pack(tmp_path).render(HELLO) == "</s>!"


def test_templates_may_have_names(tmp_path):
    named = [
        {"name": "default", "template": "{{ 1 }}"},
        {"name": "tool_use", "template": "{{ 2 }}"},
    ]
    write_config(tmp_path, chat_template=named)
    templates = ChatTemplates.from_pack(tmp_path)
    assert templates.render(HELLO) == "1"
    assert templates.render(HELLO, "tool_use") == "2"
    assert templates.render(HELLO, "{{ 3 }}") == "3"
    with pytest.raises(ChatTemplateError, match=r"named 'rag' \(it has: default, tool_use\)"):
        templates.render(HELLO, "rag")


def test_a_file_of_its_own_comes_first(tmp_path):
    write_config(tmp_path, chat_template="{{ 1 }}")
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<b>"}')
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}é")
    assert ChatTemplates.from_pack(tmp_path).render(HELLO) == "<b>é"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(PackError, match=r"chat_template\.jinja"):
        ChatTemplates.from_pack(tmp_path)


def test_without_a_template_the_error_says_how_to_pass_one(tmp_path):
    templates = ChatTemplates.from_pack(tmp_path)
    with pytest.raises(ChatTemplateError, match=r"it has: none.*chat_template="):
        templates.render(HELLO)
    assert templates.render(HELLO, "{{ messages[0].content }}") == "Hello"


@pytest.mark.parametrize(
    "wrong", [5, [], ["x"], [{"name": "default"}], [{"name": 1, "template": 2}]]
)
def test_what_is_no_template_is_a_pack_error(tmp_path, wrong):
    write_config(tmp_path, chat_template=wrong)
    with pytest.raises(PackError, match="chat_template must be"):
        ChatTemplates.from_pack(tmp_path)


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("messages", "kind", "message"),
    [
        ([], ValueError, "messages must be a non-empty list"),
        ("Hello", TypeError, "messages must be a non-empty list"),
        (5, TypeError, "messages must be a non-empty list"),
        (None, TypeError, "messages must be a non-empty list"),
        ({"role": "user", "content": "x"}, TypeError, "messages must be a non-empty list"),
        (["Hello"], TypeError, r"messages\[0\] must be a mapping"),
        ([*HELLO, {"content": "x"}], TypeError, r"messages\[1\]\['role'\]"),
        ([{"role": "", "content": "x"}], ValueError, r"\['role'\]"),
        ([{"role": 5, "content": "x"}], TypeError, r"\['role'\]"),
        ([{"role": "user"}], TypeError, r"\['content'\]"),
        ([{"role": "user", "content": None}], TypeError, r"\['content'\]"),
        ([{"role": "user", "content": 5}], TypeError, r"\['content'\]"),
        ([{"role": "user", "content": ["x"]}], TypeError, r"\['content'\]"),
        ([{"role": "user", "content": "\ud800"}], ValueError, r"\['content'\].*UTF-8"),
        ([{"role": "user", "content": "x", "extra": object()}], ValueError, "JSON"),
        ([{"role": "user", "content": "x", "extra": nested(100_000)}], ValueError, "JSON"),
    ],
)
def test_what_are_no_messages_is_refused(messages, kind, message):
    with pytest.raises(kind, match=message):
        check_messages(messages)


@pytest.mark.parametrize("wrong", [5, b"{{ 1 }}", ["default"]])
def test_a_chat_template_is_text(tmp_path, wrong):
    write_config(tmp_path, chat_template="{{ 1 }}")
    with pytest.raises(TypeError, match="chat_template must be a string"):
        ChatTemplates.from_pack(tmp_path).render(HELLO, wrong)


def test_messages_are_copied_without_what_is_none():
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}], "x": None}
    assert check_messages([call]) == [{"role": "assistant", "tool_calls": [{"name": "f"}]}]
    messages = [{"role": "user", "content": "x"}]
    assert render("{{ messages.append(1) if false }}{{ messages[0].content }}", messages) == "x"
    assert check_messages(messages)[0] is not messages[0]


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ cycler.__init__.__globals__.os.system('false') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ lipsum(n=1000000) }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/hostname' %}",
        "{% import 'os' as os %}",
        "{% if %}",
        "{{ undefined.attribute }}",
        "{{ 1 / 0 }}",
        "{{ range(10 ** 9) | list }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(30) }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ ['x'] * 10 ** 10 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{% set n = namespace(s='x') %}{% for i in [1]*99 %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% set n = namespace(s='x') %}{% for i in [1]*99 %}{% set n.s = n.s ~ n.s %}{% endfor %}",
        "{% set s = 'x' * 10 ** 6 %}{% for i in range(99) %}{{ s }}{% endfor %}",
    ],
)
def test_a_hostile_template_is_a_typed_error(template):
    with pytest.raises(ChatTemplateError, match=r"pack: the chat template failed: \w+: "):
        print(render(template))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ messages.__class__ }}", ""),
        ("{{ ''|attr('__class__') }}", ""),
        ("{{ messages | map(attribute='__class__') | join }}", ""),
        ("{{ messages.__class__ is defined }}", "False"),
    ],
)
def test_attributes_that_lead_out_do_not_exist(template, text):
    assert render("x" + template) == "x" + text


def test_a_template_that_makes_no_text_is_refused():
    with pytest.raises(ChatTemplateError, match="makes no text of these messages"):
        render("{{ '' }}")


def test_the_limits_do_not_leak_from_one_rendering_to_the_next():
    template = "{% for i in range(50000) %}{% endfor %}{{ 'a' ~ 1 ~ none }}{{ 2 ** 10 + 3 * 4 }}"
    for _ in range(6):
        assert render(template) == "a1None1036"


def test_the_dialect_of_transformers():
    assert render("{{ {'é': '<'} | tojson }}") == '{"é": "<"}'
    assert render("{{ [1, 2] | tojson(indent=1) }}") == "[\n 1,\n 2\n]"
    assert (
        render("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
        == "1"
    )
    assert render("{{ strftime_now('%Y') }}").isdigit()
    assert render("  {% if true %}\nx\n  {% endif %}\n") == "x\n"
    assert render("{{ tools is none }}{{ documents is none }}{{ bos_token }}") == "TrueTrue<s>"
