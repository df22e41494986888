# SPDX-License-Identifier: Apache-2.0
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.generation.request import StopMatcher

TEXT = st.text("ab<", max_size=20)
STOPS = st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3)


def first_stop(text, stops):
    """The definition: the first moment at which the text so far ends with a stop string."""
    for end in range(1, len(text) + 1):
        begins = [end - len(s) for s in stops if text[:end].endswith(s)]
        if begins:
            return min(begins)
    return None


def run(pieces, stops):
    matcher = StopMatcher(stops)
    out = []
    for piece in pieces:
        out.append(matcher.push(piece))
        if matcher.stopped:
            break
    return "".join(out) + matcher.flush(), matcher.stopped


@given(st.lists(TEXT, max_size=8), STOPS)
def test_any_pieces_give_the_text_before_the_first_stop_string(pieces, stops):
    text = "".join(pieces)
    cut = first_stop(text, stops)
    assert run(pieces, stops) == (text if cut is None else text[:cut], cut is not None)


@given(TEXT, STOPS)
def test_what_was_passed_on_is_never_taken_back(text, stops):
    matcher = StopMatcher(stops)
    shown = ""
    for char in text:
        shown += matcher.push(char)
        assert text.startswith(shown)
    cut = first_stop(text, stops)
    assert cut is None or shown == text[:cut]


def test_only_a_possible_beginning_is_held_back():
    matcher = StopMatcher(["</s>"])
    assert matcher.push("hello <") == "hello "
    assert matcher.push("b>") == "<b>"
    assert matcher.push("</") == ""
    assert matcher.flush() == "</"


def test_nothing_follows_a_stop_string():
    matcher = StopMatcher(["END"])
    assert matcher.push("a END b") == "a "
    assert matcher.stopped
    assert matcher.push("c") + matcher.flush() == ""


@given(st.lists(st.tuples(TEXT, st.booleans()), max_size=8), STOPS)
def test_special_tokens_are_compared_but_not_shown(pieces, stops):
    whole = "".join(text for text, _ in pieces)
    cut = first_stop(whole, stops)
    shown = [flag for text, flag in pieces for _ in text]
    expected = "".join(c for c, flag in zip(whole[:cut], shown, strict=False) if flag)
    matcher = StopMatcher(stops)
    out = [matcher.push(text, shown=flag) for text, flag in pieces]
    assert "".join(out) + matcher.flush() == expected
    assert matcher.stopped == (cut is not None)


def test_without_stop_strings_everything_passes_at_once():
    assert StopMatcher([]).push("abc") == "abc"
