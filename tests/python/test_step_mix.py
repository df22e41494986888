# SPDX-License-Identifier: Apache-2.0
"""What a step computes for several requests, and where their sequences begin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe import SamplingParams
from adapmoe.generation.prefixes import Held, Prefixes, common_prefix
from adapmoe.generation.scheduler import share_rows


@given(st.lists(st.integers(1, 300), max_size=12), st.integers(1, 512))
def test_rows_are_shared_fairly(wanted, rows):
    shares = share_rows(wanted, rows)
    assert sum(shares) == min(rows, sum(wanted))
    assert all(0 <= share <= want for share, want in zip(shares, wanted, strict=True))
    left_wanting = [s for s, want in zip(shares, wanted, strict=True) if s < want]
    assert not left_wanting or max(shares) - min(left_wanting) <= 1


def test_prompts_and_running_answers_share_steps(open_llm):
    llm = open_llm(max_sequences=2, prefill_chunk=8)
    short, long = [1, 5], [1, *range(5, 45)]
    llm.generate([short, long], max_tokens=12, ignore_eos=True)
    batches = llm._session.batches
    assert batches[0] == [2, 6]  # the short prompt whole, in the rows of one pass the rest
    assert batches[1:6] == [[1, 7]] * 5
    assert all(sum(batch) <= 8 for batch in batches)


def test_what_is_missing_of_a_request(open_llm):
    llm = open_llm()
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    prompt = np.array([1, 5, 6], np.int32)
    request = llm.scheduler.new_request(0, prompt, params, llm.tokenizer, answers=False)
    assert request.missing(0).tolist() == [1, 5, 6]
    assert request.missing(2).tolist() == [6]
    for token in (7, 8):
        row = np.zeros(llm.vocab_size, np.float32)
        row[token] = 1
        request.advance(row)
    assert request.missing(0).tolist() == [1, 5, 6, 7, 8]
    assert request.missing(2).tolist() == [6, 7, 8]
    assert request.missing(4).tolist() == [8]


def test_a_request_computed_again_gives_the_same_tokens(open_llm):
    llm = open_llm(max_sequences=2, prefill_chunk=4)
    params = SamplingParams(max_tokens=9, temperature=1, seed=3, ignore_eos=True)
    prompt = np.array([1, *range(5, 15)], np.int32)
    expected = llm.generate(prompt.tolist(), params).token_ids
    request = llm.scheduler.new_request(0, prompt, params, llm.tokenizer, answers=False)
    while not request.finish_reason:
        given_up = len(request.token_ids) + 3
        with llm.new_sequence() as sequence:
            while not request.finish_reason and len(request.token_ids) < given_up:
                assert llm.scheduler.advance([(request, sequence)]) == []
    assert request.token_ids == expected


def ids(*tokens):
    return np.array(tokens, np.int32)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_the_common_prefix(one, other):
    length = common_prefix(ids(*one), ids(*other))
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


@pytest.fixture
def prefixes(open_llm):
    """A function to an LLM and its kept prefixes: [(key, ids)], the oldest first."""

    def make(*kept, slots=4):
        llm = open_llm(max_sequences=slots)
        found = Prefixes(llm.scheduler, least=1)
        for key, tokens in kept:
            sequence = llm.new_sequence()
            sequence.prefill(tokens)
            found.keep(key, ids(*tokens), sequence)
        return llm, found

    return make


def history(sequence):
    return sequence._core.history


def test_the_longest_common_prefix_is_taken_over(prefixes):
    _, found = prefixes(("a", [1, 2, 3]), ("a", [1, 2, 4, 5]), ("b", [1, 2, 4, 6, 7]))
    assert history(found.begin("a", ids(1, 2, 4, 6, 7))) == [1, 2, 4]
    assert history(found.begin("c", ids(1, 2, 4, 6, 7))) == []


def test_a_token_is_always_left_to_compute(prefixes):
    _, found = prefixes(("a", [1, 2, 3]))
    assert history(found.begin("a", ids(1, 2, 3))) == [1, 2]


def test_what_is_kept_is_copied_while_there_is_room(prefixes):
    llm, found = prefixes(("a", [1, 2, 3]))
    first, second = (found.begin("a", ids(1, 2, 9)) for _ in range(2))
    assert (len(found), llm.free_sequences) == (1, 1)
    first.prefill([4])
    assert (history(first), history(second)) == ([1, 2, 4], [1, 2])


def test_what_continues_a_kept_one_takes_its_place(prefixes):
    llm, found = prefixes(("a", [1, 2, 3]))
    with found.begin("a", ids(1, 2, 3, 4)):
        assert (len(found), llm.free_sequences) == (0, 3)


def test_the_least_recently_used_makes_room(prefixes):
    _, found = prefixes(("a", [1, 2]), ("a", [3, 4]), ("a", [5, 6]), slots=4)
    with found.begin("a", ids(1, 9)) as first, found.begin("a", ids(8, 9)) as second:
        assert (history(first), history(second)) == ([1], [])
        assert [held.ids.tolist() for held in found._kept] == [[5, 6], [1, 2]]


def test_a_beginning_that_all_prompts_have_neither_evicts_nor_saves(prefixes):
    """With all slots kept, prompts that share one token replace the oldest, one after another."""
    llm, _ = prefixes()
    found = Prefixes(llm.scheduler, least=2)
    for token in range(4):
        sequence = llm.new_sequence()
        sequence.prefill([1, 10 + token, 20])
        found.keep("a", ids(1, 10 + token, 20), sequence)
    with found.begin("a", ids(1, 99, 98)) as one, found.begin("a", ids(1, 97, 96)) as other:
        assert (one.length, other.length) == (0, 0)
        assert [held.ids.tolist()[1] for held in found._kept] == [12, 13]


def test_the_oldest_is_cut_where_there_is_no_room_for_a_copy(prefixes):
    _, found = prefixes(("a", [1, 2, 3]), ("a", [5, 6, 7]), slots=2)
    with found.begin("a", ids(1, 2, 9)) as first:
        assert history(first) == [1, 2]
        assert [held.ids.tolist() for held in found._kept] == [[5, 6, 7]]


def test_running_sequences_are_copied_but_never_taken(prefixes):
    llm, found = prefixes(slots=2)
    with llm.new_sequence() as sequence:
        sequence.prefill([1, 2, 3])
        running = [Held("a", ids(1, 2, 3), sequence, running=True)]
        copy = found.begin("a", ids(1, 2, 9), running)
        assert history(copy) == [1, 2]
        assert found.begin("a", ids(1, 2, 9), running) is None
        assert sequence.length == 3
        copy.close()


def test_without_a_slot_nothing_begins(prefixes):
    llm, found = prefixes(slots=1)
    with llm.new_sequence():
        assert found.begin("a", ids(1, 2)) is None
    with found.begin("a", ids(1, 2)) as sequence:
        assert sequence.length == 0


def test_nothing_is_kept_twice(prefixes):
    llm, found = prefixes(("a", [1, 2, 3]), ("a", [1, 2]), ("a", [1, 2, 3]), ("b", [1, 2]))
    assert (len(found), llm.free_sequences) == (2, 2)
    found.clear()
    assert (len(found), llm.free_sequences) == (0, 4)
