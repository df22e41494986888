# SPDX-License-Identifier: Apache-2.0
"""Who gets a slot, who waits, and who is told that waiting would never end."""

import gc
import threading

import pytest

from adapmoe import AdapmoeError, ClosedError, SamplingParams
from adapmoe.generation.slots import Slots


def test_a_free_place_is_taken_at_once():
    slots = Slots(2)
    first, second = slots.take(), slots.take("b")
    assert slots.free == 0
    assert slots.try_take("c") is None
    with pytest.raises(AdapmoeError, match="all 2 sequences are in use"):
        slots.take()
    first.give_back()
    first.give_back()
    assert slots.free == 1
    assert slots.reserve("c").result(0).owner == "c"
    second.give_back()


def test_who_has_waited_longest_gets_the_place():
    slots = Slots(1)
    slot = slots.take("a")
    waiting = [slots.reserve(owner) for owner in "bcd"]
    waiting[1].cancel()
    slot.give_back()
    assert slots.free == 0
    assert [future.done() for future in waiting] == [True, True, False]
    waiting[0].result().give_back()
    assert waiting[2].result(0).owner == "d"


@pytest.mark.parametrize("held_by", [(None, None), ("me", None), ("me", "other")])
def test_waiting_that_might_never_end_is_an_error(held_by):
    slots = Slots(2)
    for owner in held_by:
        slots.take(owner)
    with pytest.raises(AdapmoeError, match="in use"):
        slots.reserve("me")


def test_waiting_can_be_forbidden():
    slots = Slots(1)
    slots.take("other")
    with pytest.raises(AdapmoeError, match="in use"):
        slots.reserve("me", may_wait=False)


def test_closing_turns_the_waiting_away():
    slots = Slots(1)
    slots.take("a")
    waiting = slots.reserve("b")
    slots.close()
    with pytest.raises(ClosedError):
        waiting.result(0)
    with pytest.raises(ClosedError):
        slots.reserve("c")


def test_a_dropped_sequence_gives_its_place_back(open_llm):
    llm = open_llm()
    sequence = llm.new_sequence()
    sequence.prefill([1, 2])
    assert llm.free_sequences == 0
    del sequence
    gc.collect()
    assert llm.free_sequences == 1
    llm.new_sequence().close()


def test_a_dropped_stream_gives_its_place_back(open_llm):
    llm = open_llm()
    next(llm.generate([1, 2], stream=True))
    gc.collect()
    assert llm.free_sequences == 1


def test_a_sequence_that_cannot_be_opened_takes_no_place(open_llm, monkeypatch):
    llm = open_llm(max_sequences=2)
    monkeypatch.setattr(llm._session, "new_sequence", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        llm.new_sequence()
    assert llm.free_sequences == 2


def test_threads_wait_for_each_others_generations(open_llm):
    llm = open_llm({"step_s": 0.001}, max_sequences=2)
    params = SamplingParams(max_tokens=6)
    expected = [llm.generate([1, n], params).token_ids for n in range(8)]
    found = [None] * 8

    def work(n):
        found[n] = llm.generate([1, n], params).token_ids

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
    assert llm.free_sequences == 2


def test_an_unfinished_stream_of_the_same_thread_is_not_waited_for(open_llm):
    llm = open_llm()
    with llm.generate([1, 2], stream=True) as stream:
        next(stream)
        with pytest.raises(AdapmoeError, match="finish or close a stream"):
            llm.generate([1, 2])
    assert llm.generate([1, 2], SamplingParams(max_tokens=2)).finish_reason == "length"


def test_closing_ends_generations_of_other_threads(open_llm):
    llm = open_llm({"step_s": 0.002}, max_context=4000)
    seen, begun = [], threading.Event()

    def work():
        try:
            for _ in llm.generate([1, 2], SamplingParams(max_tokens=3000), stream=True):
                begun.set()
        except Exception as error:
            seen.append(type(error))
            begun.set()

    threads = [threading.Thread(target=work) for _ in range(3)]  # one works, two wait
    for thread in threads:
        thread.start()
    begun.wait()
    llm.close()
    for thread in threads:
        thread.join(10)
    assert seen == [ClosedError] * 3
