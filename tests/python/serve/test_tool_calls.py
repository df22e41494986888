# SPDX-License-Identifier: Apache-2.0
"""Calls of tools are read in each syntax, and what is none is noticed at once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.serve.json_scanner import MAX_DEPTH, JsonScanner, MalformedError
from adapmoe.serve.tool_calls import (
    CallReader,
    CallSyntax,
    is_tool_name,
    messages_for_template,
    new_id,
)
from support.models.chat_templates import CHATML
from support.models.tool_templates import HERMES, MISTRAL_LIST, MISTRAL_NAMED

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)  # fmt: skip
json_containers = st.lists(json_values, max_size=4) | st.dictionaries(st.text(), json_values)


def read(syntax, text):
    """The calls in `text`, which must end with them, as pairs of name and parsed arguments."""
    reader = CallReader(syntax)
    for at, char in enumerate(text):
        calls = reader.push(char)
        if calls:
            assert at == len(text) - 1, f"text left over: {text[at + 1 :]!r}"
            return [(call.name, json.loads(call.arguments)) for call in calls]
    return []


@pytest.mark.parametrize(
    ("template", "syntax"),
    [
        (MISTRAL_LIST, CallSyntax.MISTRAL),
        (MISTRAL_NAMED, CallSyntax.MISTRAL_ARGS),
        (HERMES, CallSyntax.HERMES),
        (CHATML, None),
        ("<tool_call>\n<function=f>\n<parameter=x>", None),
        ("<tool_call>f\n<arg_key>x</arg_key>", None),
    ],
)
def test_the_template_tells_the_syntax(template, syntax):
    assert CallSyntax.of(template) is syntax


@pytest.mark.parametrize(
    ("syntax", "text", "calls"),
    [
        (CallSyntax.MISTRAL, ' [{"name": "f", "arguments": {"a": 1}}]', [("f", {"a": 1})]),
        (
            CallSyntax.MISTRAL,
            '[{"name":"f","arguments":{}}, {"arguments":{"]":"}"},"name":"g","id":"abcdef123"}]',
            [("f", {}), ("g", {"]": "}"})],
        ),
        (CallSyntax.MISTRAL, 'get_x-1.b[ARGS]{"a": [{}]}', [("get_x-1.b", {"a": [{}]})]),
        (CallSyntax.MISTRAL_ARGS, 'f[ARGS] {"a": 1}', [("f", {"a": 1})]),
        (CallSyntax.MISTRAL_ARGS, 'f[CALL_ID]abcdef123[ARGS]{"a": 1}', [("f", {"a": 1})]),
        (CallSyntax.MISTRAL_ARGS, ' [{"name": "f", "arguments": {}}]', [("f", {})]),
        (
            CallSyntax.HERMES,
            '\n{"name": "f", "arguments": {"s": "</tool_call>\\"é\\u00e9"}}\n</tool_call>',
            [("f", {"s": '</tool_call>"éé'})],
        ),
        (
            CallSyntax.HERMES,
            '{"arguments":{"a":null},"name":"f"}</tool_call>',
            [("f", {"a": None})],
        ),
        (CallSyntax.HERMES, '{"name": "f"}</tool_call>', [("f", {})]),
        (CallSyntax.HERMES, '{"name": "f", "arguments": null}</tool_call>', [("f", {})]),
        (CallSyntax.MISTRAL, '[{"name": "f"}]', [("f", {})]),
        (
            CallSyntax.HERMES,
            r'{"name": "f", "arguments": " {\"a\": \"\\\"é\"} "}</tool_call>',
            [("f", {"a": '"é'})],
        ),
        (CallSyntax.MISTRAL, '[{"name": "f", "arguments": "{}"}]', [("f", {})]),
    ],
)
def test_calls_are_read(syntax, text, calls):
    assert read(syntax, text) == calls


@pytest.mark.parametrize(
    ("syntax", "possible", "wrong"),
    [
        (CallSyntax.HERMES, "\n", "f"),
        (CallSyntax.HERMES, "", "["),
        (CallSyntax.HERMES, "", "<"),
        (CallSyntax.HERMES, "{", "'"),
        (CallSyntax.HERMES, '{"name" ', '"'),
        (CallSyntax.HERMES, '{"name": ', "x"),
        (CallSyntax.HERMES, '{"name": ', "N"),
        (CallSyntax.HERMES, '{"name": "a', "\n"),
        (CallSyntax.HERMES, '{"a": 01', "}"),
        (CallSyntax.HERMES, '{"a": 1,', "}"),
        (CallSyntax.HERMES, '{"a": [1', "}"),
        (CallSyntax.HERMES, '{"a": "\\', "x"),
        (CallSyntax.HERMES, '{"name": "f", "arguments": {}} </tool', "x"),
        (CallSyntax.HERMES, '{"name": "f", "arguments": {}}', "."),
        (CallSyntax.MISTRAL, " hello", " "),
        (CallSyntax.MISTRAL, "f[ARG", "Z"),
        (CallSyntax.MISTRAL, "f[ARGS]", "["),
        (CallSyntax.MISTRAL, "[", "]"),
        (CallSyntax.MISTRAL, "[[", "T"),
        (CallSyntax.MISTRAL_ARGS, "x" * 256, "x"),
    ],
)
def test_what_is_no_call_is_noticed_at_the_first_character_that_shows_it(syntax, possible, wrong):
    reader = CallReader(syntax)
    for char in possible:
        assert reader.push(char) == []
    with pytest.raises(MalformedError):
        reader.push(wrong)


@pytest.mark.parametrize(
    "parsed",
    [
        '{"name": "f", "arguments": ""}',
        '{"name": "f", "arguments": "x"}',
        '{"name": "f", "arguments": "{"}',
        '{"name": "f", "arguments": "{} x"}',
        '{"name": "f", "arguments": "[1]"}',
        '{"name": "f", "arguments": "5"}',
        '{"name": "f", "arguments": "%s"}' % ("[" * 100_000),
        '{"name": "f", "arguments": "{\\"a\\": 1e999}"}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": 0}',
        '{"name": "", "arguments": {}}',
        '{"name": 1, "arguments": {}}',
        '{"arguments": {}}',
        '{"name": "f", "arguments": {"a": 1e999}}',
        '{"name": "f", "arguments": {"a": "\\ud800"}}',
        '{"name": "\\ud800", "arguments": {}}',
        '{"name": "f", "arguments": {"a": "\\u00zz"}}',
        '{"name": "f", "arguments": {"a": %s}}' % ("9" * 5000),
    ],
)
def test_an_object_that_is_no_call_is_malformed(parsed):
    for syntax, text in [
        (CallSyntax.HERMES, parsed + "</tool_call>"),
        (CallSyntax.MISTRAL, f"[{parsed}]"),
        (CallSyntax.MISTRAL, f'[{{"name": "f", "arguments": {{}}}}, {parsed}]'),
    ]:
        with pytest.raises(MalformedError):
            read(syntax, text)


@pytest.mark.parametrize("end", ["", "\n", "</", "\n</tool_call"])
def test_a_complete_object_is_a_call_where_the_answer_ends(end):
    reader = CallReader(CallSyntax.HERMES)
    for char in '\n{"name": "f", "arguments": {"a": 1}}' + end:
        assert reader.push(char) == []
    [call] = reader.finish()
    assert (call.name, call.arguments) == ("f", '{"a": 1}')


@pytest.mark.parametrize(
    ("syntax", "text"),
    [
        (CallSyntax.HERMES, ""),
        (CallSyntax.HERMES, '{"name": "f", "arguments": {}'),
        (CallSyntax.HERMES, '{"arguments": {}}'),
        (CallSyntax.MISTRAL, '[{"name": "f", "arguments": {}}'),
        (CallSyntax.MISTRAL, "f[ARGS]"),
    ],
)
def test_where_the_answer_ends_too_early_there_is_no_call(syntax, text):
    reader = CallReader(syntax)
    for char in text:
        reader.push(char)
    with pytest.raises(MalformedError):
        reader.finish()


def test_deep_nesting_is_malformed_and_not_a_crash():
    with pytest.raises(MalformedError, match="levels"):
        read(CallSyntax.MISTRAL, "[" * 100_000)
    deep = "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2)
    text = f'{{"name": "f", "arguments": {{"a": {deep}}}}}</tool_call>'
    assert read(CallSyntax.HERMES, text)[0][0] == "f"


@given(arguments=st.dictionaries(st.text(), json_values), ascii_only=st.booleans())
def test_any_arguments_survive(arguments, ascii_only):
    text = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=ascii_only, indent=1)
    assert read(CallSyntax.HERMES, text + "\n</tool_call>") == [("f", arguments)]
    assert read(CallSyntax.MISTRAL, f" [{text}]") == [("f", arguments)]


@given(value=json_containers, indent=st.sampled_from([None, 0, 2]))
def test_the_scanner_finds_the_end_of_json(value, indent):
    scanner = JsonScanner()
    text = json.dumps(value, indent=indent)
    ends = [at for at, char in enumerate(text) if scanner.push(char)]
    assert ends == [len(text) - 1]


@given(
    value=json_containers, cut=st.integers(0, 10**6), char=st.sampled_from('{}[]":,\\ax01 -.eE\n')
)
def test_the_scanner_is_as_strict_as_the_parser(value, cut, char):
    """One character more, or another: the scanner takes no text to be complete that is not JSON."""
    text = json.dumps(value)
    at = cut % len(text)
    for changed in (text[:at] + char + text[at:], text[:at] + char + text[at + 1 :]):
        scanner, end = JsonScanner(), None
        try:
            end = next((n for n, found in enumerate(changed) if scanner.push(found)), None)
        except MalformedError:
            with pytest.raises(ValueError, match=":"):
                json.loads(changed)
            continue
        if end is not None and "\\u" not in changed:
            json.loads(changed[: end + 1])


def test_ids_are_nine_random_letters_and_digits():
    ids = {new_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(len(found) == 9 and found.isascii() and found.isalnum() for found in ids)


@pytest.mark.parametrize("name", ["f", "get_x-1.b", "x" * 256])
def test_what_tools_may_be_called(name):
    assert is_tool_name(name)
    for wrong in (name + " ", name + "é", name + '"', name + "\n", "", "x" * 257):
        assert not is_tool_name(wrong)


def test_arguments_as_text_become_objects_for_the_template():
    call = {"id": "abcdef123", "type": "function"}
    messages = [
        {"role": "user", "content": "x", "extra": 1},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {**call, "function": {"name": "f", "arguments": '{"a": [1, null]}'}},
                {**call, "function": {"name": "g", "arguments": {"b": 2}}},
            ],
        },
        {"role": "tool", "content": "5", "tool_call_id": "abcdef123"},
    ]
    before = json.dumps(messages)
    found = messages_for_template(messages)
    assert json.dumps(messages) == before
    assert found[0] == messages[0]
    assert found[2] == messages[2]
    assert [one["function"] for one in found[1]["tool_calls"]] == [
        {"name": "f", "arguments": {"a": [1, None]}},
        {"name": "g", "arguments": {"b": 2}},
    ]
    assert found[1]["tool_calls"][0]["id"] == "abcdef123"


@pytest.mark.parametrize("wrong", ["", "{", "[1]", "5", '"x"', "[" * 100_000, '{"a": 1} x'])
def test_arguments_that_are_no_object_are_refused(wrong):
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": wrong}}]}
    with pytest.raises(ValueError, match=r"messages\[0\]\.tool_calls\[0\]\.function\.arguments"):
        messages_for_template([message])


@pytest.mark.parametrize("odd", [None, "x", 5, [5], ["x"], [{}], [{"function": "f"}], {}])
def test_other_messages_pass_unchanged(odd):
    message = {"role": "assistant", "tool_calls": odd}
    assert messages_for_template([message]) == [message]
