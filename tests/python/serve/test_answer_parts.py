# SPDX-License-Identifier: Apache-2.0
"""What a model writes falls into reasoning, text and calls, however it is cut into pieces."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.serve.answer import AnswerParser, AnswerStyle, ReasoningPart, TextPart
from adapmoe.serve.tool_calls import CallReader, CallSyntax, ToolCall
from support.models.chat_templates import TEMPLATES
from support.models.tool_templates import HERMES, MISTRAL_LIST, MISTRAL_NAMED

STYLES = {
    "hermes": AnswerStyle.of(HERMES),
    "mistral": AnswerStyle.of(MISTRAL_LIST),
    "named": AnswerStyle.of(MISTRAL_NAMED),
    "magistral": AnswerStyle.of(MISTRAL_NAMED + "[THINK] [/THINK]"),
    "reasoning": AnswerStyle.of("</think>"),
    "plain": AnswerStyle.of(TEMPLATES["chatml"]),
}


def plain(part):
    """A part as a pair; the random id of a call is left out."""
    if isinstance(part, ToolCall):
        return "call", f"{part.name} {part.arguments}"
    return ("reasoning" if isinstance(part, ReasoningPart) else "text"), part.text


def joined(parts):
    """The parts as pairs, with neighbours of the same kind joined, except for calls."""
    found = []
    for kind, text in map(plain, parts):
        if found and kind != "call" and found[-1][0] == kind:
            text = found.pop()[1] + text
        found.append((kind, text))
    return found


def parse(style, pieces, *, tools=True, prompt=""):
    parser = AnswerParser(STYLES[style], tools=tools, prompt=prompt)
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    assert all(isinstance(part, ToolCall) or part.text for part in parts)
    assert parser.finish() == []
    return joined(parts)


def test_the_style_is_read_from_the_template():
    marks = frozenset({"<think>", "</think>"})
    calls = frozenset({"<tool_call>", "</tool_call>"})
    mistral = frozenset({"[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"})
    assert STYLES["hermes"] == AnswerStyle(
        CallSyntax.HERMES, ("<think>", "</think>"), marks | calls
    )
    assert STYLES["mistral"] == AnswerStyle(CallSyntax.MISTRAL, None, mistral)
    assert STYLES["named"] == AnswerStyle(CallSyntax.MISTRAL_ARGS, None, mistral)
    assert STYLES["magistral"].reasoning == ("[THINK]", "[/THINK]")
    assert STYLES["reasoning"] == AnswerStyle(None, ("<think>", "</think>"), marks)
    for template in TEMPLATES.values():
        assert AnswerStyle.of(template) == AnswerStyle(None, None, frozenset())


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
CALLED = ("call", 'f {"a": 1}')


@pytest.mark.parametrize(
    ("style", "text", "parts"),
    [
        ("plain", "", []),
        ("plain", " <think>x</think> [TOOL_CALLS] <tool_call>", None),
        ("hermes", "Hello", [("text", "Hello")]),
        ("hermes", " \n", [("text", " \n")]),
        ("hermes", "<think>\nA.\n</think>\n\nB", [("reasoning", "A.\n"), ("text", "B")]),
        ("hermes", " \n<think>A</think> B", [("reasoning", "A"), ("text", " B")]),
        ("hermes", "<think>\n\n\nA</think>\n\n\nB", [("reasoning", "\nA"), ("text", "\nB")]),
        ("hermes", "<think>\n\n</think>\n\nB", [("text", "B")]),
        ("hermes", "<think>\n</think>\n", []),
        ("hermes", "<think>A", [("reasoning", "A")]),
        ("hermes", "<think>A</thin", [("reasoning", "A</thin")]),
        ("hermes", "<think>A<think></think>B", [("reasoning", "A<think>"), ("text", "B")]),
        ("hermes", "B<think>A</think>", None),
        ("hermes", "A</think>B", None),
        ("hermes", "<thin", None),
        ("hermes", "<thinks>", None),
        ("hermes", CALL, [CALLED]),
        ("hermes", f"\n\n{CALL}\n{CALL}\n", [CALLED, CALLED]),
        ("hermes", f"A\n{CALL}\nB", [("text", "A\n"), CALLED, ("text", "\nB")]),
        (
            "hermes",
            f"<think>\nA {CALL}\n</think>\n\n\n{CALL}",
            [("reasoning", f"A {CALL}\n"), CALLED],
        ),
        ("hermes", CALL[:-1], [CALLED]),
        ("hermes", f"A{CALL[:-12]} \n", [("text", "A"), CALLED]),
        ("hermes", f"{CALL}{CALL[:-12]}", [CALLED, CALLED]),
        ("hermes", CALL[:-14], None),
        ("hermes", f"{CALL[:-12]}.", None),
        ("hermes", f"{CALL[:-12]}{CALL}", [("text", CALL[:-12]), CALLED]),
        ("hermes", "\n <tool_call>\n", None),
        ("hermes", " <tool_call> f(1) </tool_call> ", None),
        ("hermes", f" <tool_call>{CALL}", [("text", " <tool_call>"), CALLED]),
        (
            "hermes",
            f'<tool_call>{{"a": "{CALL[:13]}',
            [("text", f'<tool_call>{{"a": "{CALL[:13]}')],
        ),
        ("hermes", "a < b <tool", None),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]', [CALLED]),
        (
            "mistral",
            ' [TOOL_CALLS][{"name":"f","arguments":{"a":1}},{"name":"g","arguments":{}}]',
            [CALLED, ("call", "g {}")],
        ),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}', None),
        ("mistral", "[TOOL_CALLS] [{}] no", None),
        ("mistral", "<think>A</think>", None),
        (
            "named",
            'A[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}',
            [("text", "A"), CALLED, ("call", "g {}")],
        ),
        ("named", "[TOOL_CALLS]f[ARGS]{", None),
        (
            "magistral",
            '[THINK]A[/THINK][TOOL_CALLS]f[CALL_ID]abcdef123[ARGS]{"a": 1}',
            [("reasoning", "A"), CALLED],
        ),
        ("reasoning", f"<think>A</think>{CALL}", [("reasoning", "A"), ("text", CALL)]),
    ],
)
def test_parts_of_an_answer(style, text, parts):
    """None: the text comes back as it is."""
    expected = [("text", text)] if parts is None else parts
    assert parse(style, [text]) == expected
    assert parse(style, list(text)) == expected


@pytest.mark.parametrize("prompt", ["<s>A<think>", "<s>A<think>\n", "<s>A<think>\n\n "])
def test_the_prompt_may_have_begun_the_reasoning(prompt):
    text = "A</think>\n\nB"
    expected = [("reasoning", "A"), ("text", "B")]
    assert parse("hermes", [text], prompt=prompt) == expected
    assert parse("hermes", ["\n" + text], prompt=prompt) == expected
    assert parse("mistral", [text], prompt=prompt) == [("text", text)]


@pytest.mark.parametrize("prompt", ["<think>\n\n</think>\n\n", "<think>\nOf course", ""])
def test_reasoning_that_the_prompt_has_ended_is_over(prompt):
    assert parse("hermes", ["A</think>B"], prompt=prompt) == [("text", "A</think>B")]


def test_without_tools_calls_are_text():
    text = f" <think>A</think>\n {CALL}\n"
    expected = [("reasoning", "A"), ("text", f" {CALL}\n")]
    assert parse("hermes", [text], tools=False) == expected
    assert parse("hermes", [f" \n{CALL}"], tools=False) == [("text", f" \n{CALL}")]


@pytest.mark.parametrize(
    ("style", "text", "certain"),
    [
        ("plain", "  <think>", "  <think>"),
        ("hermes", "A", "A"),
        ("hermes", " ", ""),
        ("hermes", "<thi", ""),
        ("hermes", "<thx", "<thx"),
        ("hermes", "A <think>", "A <think>"),
        ("hermes", "A <tool", "A "),
        ("hermes", "A <tool ", "A <tool "),
        ("hermes", "A < b", "A < b"),
        ("hermes", "A \n", "A \n"),
        ("hermes", f"A {CALL[:-1]}", "A "),
        ("hermes", "A <tool_call>f", "A <tool_call>f"),
        ("hermes", '<tool_call>{"a" 1', '<tool_call>{"a" 1'),
        ("mistral", "a[1] = [TO", "a[1] = "),
        ("mistral", "[TOOL_CALLS] an", ""),
        ("mistral", "[TOOL_CALLS] an ", "[TOOL_CALLS] an "),
    ],
)
def test_text_is_held_back_only_as_long_as_it_may_become_something_else(style, text, certain):
    parser = AnswerParser(STYLES[style], tools=True, prompt="")
    parts = [part for char in text for part in parser.push(char)]
    assert joined(parts) == ([("text", certain)] if certain else [])


def test_reasoning_is_passed_on_at_once():
    parser = AnswerParser(STYLES["hermes"], tools=True, prompt="<think>\n")
    assert parser.push("One") == [ReasoningPart("One")]
    assert parser.push(" two</") == [ReasoningPart(" two")]
    assert parser.push("b></think>\n") == [ReasoningPart("</b>")]
    assert parser.push("\nText") == [TextPart("Text")]


fragments = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]"),
        *("[CALL_ID]", "\n", " ", "[", "]", "{", "}", '"', ":", ",", "<", "f", "x", "\\", "é"),
        *('{"name": "f", "arguments": {}}', '"name": "f"', '"arguments": {"a": [1]}', CALL),
        *('<tool_call>{"name": "f"}', '"arguments": "{}"', "</tool"),
    ]
)
texts = st.lists(fragments | st.text(max_size=3), max_size=14).map("".join)
styles = st.sampled_from(sorted(STYLES))


@given(
    style=styles,
    text=texts,
    cuts=st.lists(st.integers(0, 200), max_size=8),
    tools=st.booleans(),
    prompt=st.sampled_from(["", "<think>\n", "[THINK]"]),
)
def test_how_the_text_is_cut_makes_no_difference(style, text, cuts, tools, prompt):
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(borders)]
    whole = parse(style, [text], tools=tools, prompt=prompt)
    assert parse(style, pieces, tools=tools, prompt=prompt) == whole
    assert parse(style, list(text), tools=tools, prompt=prompt) == whole


@given(style=styles, text=texts, tools=st.booleans())
def test_nothing_but_marks_calls_and_white_space_is_lost(style, text, tools):
    """Without them: in an answer with neither reasoning nor calls, not a character."""
    parts = parse(style, list(text), tools=tools)
    kinds = {kind for kind, _ in parts}
    begins = STYLES[style].reasoning and text.lstrip().startswith(STYLES[style].reasoning[0])
    if "call" not in kinds and not begins:
        assert "".join(part for _, part in parts) == text
    left = "".join(text.split())
    for kind, part in parts:
        for word in part.split() if kind != "call" else ():
            at = left.find(word)
            assert at >= 0
            left = left[at + len(word) :]


arguments = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=12), max_size=3)
words = st.text("ab <>[]{}\n\"'", min_size=1, max_size=12).map(lambda text: text + "x")


@given(style=st.sampled_from(["hermes", "mistral", "named"]), data=st.data())
def test_calls_are_found_between_texts(style, data):
    """Texts and calls are written one after another, and come back the same."""
    written, expected = "", []
    for text, given_arguments in data.draw(st.lists(st.tuples(words, arguments), max_size=4)):
        body = json.dumps({"name": "f", "arguments": given_arguments}, ensure_ascii=False)
        written += (
            text
            + {
                "hermes": f"<tool_call>\n{body}\n</tool_call>",
                "mistral": f"[TOOL_CALLS] [{body}]",
                "named": f"[TOOL_CALLS]f[ARGS]{json.dumps(given_arguments)}",
            }[style]
        )
        called = f"f {json.dumps(given_arguments, ensure_ascii=False)}"
        expected += [("text", text), ("call", called)]
    assert parse(style, list(written)) == expected


@pytest.mark.parametrize(
    "unit",
    [
        "<tool_call>",
        '<tool_call>{"',
        '<tool_call>{"a":"',
        '<tool_call>{"a":"<tool_call>{"',
        "<tool_call>{}",
        "<tool_call> ",
        ' <tool_call>{"name": "f", "arguments": {}}',
        "[TOOL_CALLS][",
        "[TOOL_CALLS]f[ARGS]{",
        '[TOOL_CALLS][{"[',
        '[TOOL_CALLS][{"[TOOL_CALLS][{"',
    ],
)
@pytest.mark.parametrize("style", ["hermes", "mistral"])
def test_a_hostile_text_is_not_read_again_and_again(style, unit, monkeypatch):
    """Calls that turn out to be none are looked through for others, but only a few times."""
    read = 0
    push = CallReader.push

    def counted(self, char):
        nonlocal read
        read += 1
        return push(self, char)

    monkeypatch.setattr(CallReader, "push", counted)
    text = unit * 1000 + "."
    assert parse(style, [text[at : at + 4] for at in range(0, len(text), 4)]) == [("text", text)]
    assert read <= 2 * len(text)
