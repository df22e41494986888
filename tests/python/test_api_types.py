# SPDX-License-Identifier: Apache-2.0
"""Values of a wrong type or range at every public entry: a typed error that names the argument."""

import inspect
import math
from dataclasses import asdict, fields
from types import SimpleNamespace

import numpy as np
import pytest

from adapmoe import LLM, ClosedError, SamplingParams
from adapmoe.calibration.statistics import evaluate
from adapmoe.conversation import Conversation
from adapmoe.settings import Settings

NO_TOKENS = [2.7, True, np.True_, "5", b"5", None, [5], np.float32(5)]
OUTSIDE = [-1, 4096, 2**40, 10**30]
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("wrong", NO_TOKENS)
def test_one_token_must_be_an_integer(open_llm, wrong):
    llm = open_llm()
    with llm.new_sequence() as sequence:
        sequence.prefill([1])
        with pytest.raises(TypeError, match="token_id must be a token id, an integer"):
            sequence.decode(wrong)
        with pytest.raises(TypeError, match=r"items\[0\]\[1\] must be a token id, an integer"):
            llm.decode_batch([(sequence, wrong)])
        with pytest.raises(TypeError, match=r"ids\[1\] must be a token id, an integer"):
            sequence.prefill([1, wrong])
        assert sequence.length == 1


@pytest.mark.parametrize("wrong", OUTSIDE)
def test_one_token_must_be_in_the_vocabulary(open_llm, wrong):
    llm = open_llm()
    with llm.new_sequence() as sequence:
        sequence.prefill([1])
        for call in (
            lambda: sequence.decode(wrong),
            lambda: llm.decode_batch([(sequence, wrong)]),
            lambda: sequence.prefill([1, wrong]),
            lambda: llm.generate([1, wrong]),
        ):
            with pytest.raises(ValueError, match=r"vocabulary of 4096|at least 0"):
                call()
        assert sequence.length == 1


@pytest.mark.parametrize("wrong", [None, 5, "ab", {}, [5], [(5, 5)], [("a", 5)], [()]])
def test_a_batch_is_pairs(open_llm, wrong):
    with pytest.raises(TypeError, match=r"items(\[0\])? must be .* pairs?, not"):
        open_llm().decode_batch(wrong)


def test_a_batch_has_a_pair_and_may_come_from_an_iterator(open_llm):
    llm = open_llm(max_sequences=2)
    with pytest.raises(ValueError, match=r"items must be a list of .*, at least one"):
        llm.decode_batch([])
    sequences = [llm.new_sequence(), llm.new_sequence()]
    assert llm.decode_batch((sequence, 5) for sequence in sequences).shape == (2, 4096)


@pytest.mark.parametrize("wrong", [None, 5, {}, [5], [(5, [5])], [()], [("a", [5], "last", 1)]])
def test_a_step_is_items(open_llm, wrong):
    with pytest.raises(TypeError, match=r"items(\[0\])? must be .*\(sequence, ids\)"):
        open_llm().step(wrong)


def test_every_part_of_an_item_is_checked(open_llm):
    llm = open_llm(max_sequences=2)
    with pytest.raises(ValueError, match=r"items must be .* at least one, not an empty list"):
        llm.step([])
    first, second = llm.new_sequence(), llm.new_sequence()
    for ids in ([2.5], [True], "ab", None):
        with pytest.raises(TypeError, match=r"items\[1\]\[1\]"):
            llm.step([(first, [5]), (second, ids)])
    for ids in ([], [4096], [-1]):
        with pytest.raises(ValueError, match=r"items\[1\]\[1\]"):
            llm.step([(first, [5]), (second, ids)])
    with pytest.raises(ValueError, match=r"items\[0\]\[2\] must be .*not 'most'"):
        llm.step([(first, [5], "most")])
    assert first.length == second.length == 0
    found = llm.step([(first, [5, 6], "all"), (second, range(5, 8), "none")])
    assert (found[0].shape, found[1]) == ((2, 4096), None)


def test_a_length_is_an_integer_up_to_what_there_is(open_llm):
    with open_llm().new_sequence() as sequence:
        sequence.prefill([1, 5, 9])
        for wrong in (1.0, True, "1", None):
            with pytest.raises(TypeError, match="length must be an integer"):
                sequence.truncate(wrong)
        for wrong in (-1, 4, 2**70):
            with pytest.raises(ValueError, match="length must be from 0 to 3"):
                sequence.truncate(wrong)
        sequence.truncate(np.int64(2))
        assert sequence.length == 2
    with pytest.raises(ClosedError):
        sequence.truncate(1)


@pytest.mark.parametrize("wrong", [None, 0, 1, "yes", []])
def test_switches_are_true_or_false(open_llm, wrong):
    llm = open_llm()
    llm._session.record_trace = lambda on: None
    with llm.new_sequence() as sequence:
        for name, call in {
            "all_logits": lambda: sequence.prefill([1], wrong),
            "stream": lambda: llm.generate([1], stream=wrong),
            "on": lambda: llm.record_trace(wrong),
        }.items():
            with pytest.raises(TypeError, match=f"{name} must be True or False"):
                call()
    with pytest.raises(TypeError, match="stream must be True or False"):
        llm.chat(HELLO, stream=wrong)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        (None, "prompt"),
        (5, "prompt"),
        (b"Hello", "prompt"),
        ({"prompt": "x"}, "prompt"),
        ({1, 2}, "prompt"),
        (iter(["x"]), "prompt"),
        (np.array(5), "prompt"),
        ([1.5], r"prompt\[0\]"),
        ([True], r"prompt\[0\]"),
        ([1, "a"], r"prompt\[1\]"),
        (HELLO, r"prompt\[0\]"),
        ([None], r"prompt\[0\]"),
        (["a", 5], r"prompt\[1\]"),
        (["a", None], r"prompt\[1\]"),
        (["a", b"b"], r"prompt\[1\]"),
        ([[1], [1.5]], r"prompt\[1\]\[0\]"),
        ([[1], ["x"]], r"prompt\[1\]\[0\]"),
        (np.array([1.5]), "prompt"),
        (np.array([[1.5]]), r"prompt\[0\]"),
    ],
)
def test_a_prompt_is_text_or_token_ids(open_llm, prompt, name):
    for entry in ("generate", "generate_async"):
        with pytest.raises(TypeError, match=f"^{name} must be "):
            getattr(open_llm(), entry)(prompt)


def test_text_that_utf_8_cannot_hold_is_refused(open_llm):
    llm = open_llm()
    with pytest.raises(ValueError, match=r"prompt\[1\] must be text that UTF-8 can hold"):
        llm.generate(["a", "b\udc80"])
    with pytest.raises(ValueError, match=r"\['content'\] must be text that UTF-8 can hold"):
        llm.chat([{"role": "user", "content": "\udc80"}])


@pytest.mark.parametrize("wrong", [{"max_tokens": 5}, 5, "greedy", SamplingParams])
def test_params_are_sampling_params(open_llm, wrong):
    llm = open_llm()
    for entry, argument in (
        ("generate", "a"),
        ("generate_async", "a"),
        ("chat", HELLO),
        ("chat_async", HELLO),
    ):
        with pytest.raises(TypeError, match="params must be SamplingParams or None"):
            getattr(llm, entry)(argument, wrong)
    with (
        Conversation(llm) as conversation,
        pytest.raises(TypeError, match="params must be SamplingParams or None"),
    ):
        next(conversation.ask("Hello", wrong))


@pytest.mark.parametrize("wrong", [5, b"Hello", ["Hello"]])
def test_what_a_conversation_takes_is_text(open_llm, wrong):
    llm = open_llm()
    with pytest.raises(TypeError, match="system must be a string"):
        Conversation(llm, system=wrong)
    with pytest.raises(TypeError, match="chat_template must be a string"):
        Conversation(llm, chat_template=wrong)
    assert llm.free_sequences == 1
    with Conversation(llm) as conversation:
        with pytest.raises(TypeError, match="text must be a string"):
            next(conversation.ask(wrong, SamplingParams()))
        assert conversation.messages == []


@pytest.mark.parametrize("wrong", [None, 1.5, True, b"1GiB"])
def test_memory_is_a_size(open_llm, wrong):
    with pytest.raises(TypeError, match="memory must be a whole number of bytes"):
        open_llm().set_memory(wrong)


def test_memory_is_below_63_bits(open_llm):
    for wrong in (2**63, "16777216TiB"):
        with pytest.raises(ValueError, match=r"memory must be below 2\*\*63"):
            open_llm().set_memory(wrong)


def test_perplexity_takes_a_text_and_a_window(open_llm):
    for wrong in (2.5, True, "4"):
        with pytest.raises(TypeError, match="window must be an integer"):
            evaluate(open_llm(), "some text", window=wrong)
    with pytest.raises(TypeError, match="text must be a string"):
        evaluate(open_llm(), b"some text")


def test_every_argument_of_llm_has_a_check_that_takes_its_default():
    arguments = dict(inspect.signature(LLM).parameters)
    assert list(arguments) == ["path", *(each.name for each in fields(Settings))]
    del arguments["path"]
    defaults = {name: argument.default for name, argument in arguments.items()}
    assert asdict(Settings(**defaults)) == {**defaults, "sensitivity": []}


WRONG_TYPES = {bool: [None, 0, 1, "yes"], int: [2.0, True, "4"], float: [True, "1"]}


def test_every_switch_and_number_of_llm_refuses_other_types():
    seen = SimpleNamespace(count=0)
    for name, argument in inspect.signature(LLM).parameters.items():
        for kind, values in WRONG_TYPES.items():
            if str(argument.annotation).split(" | ")[0] not in (str(kind), kind.__name__):
                continue
            for value in values[:-1] if name in ("memory", "experts_resident") else values:
                seen.count += 1
                with pytest.raises(TypeError, match=f"{name} must be"):
                    Settings(**{name: value})
    assert seen.count > 50


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ({"memory": None}, TypeError),
        ({"memory": 1.5}, TypeError),
        ({"memory": "much"}, ValueError),
        ({"memory": 2**63}, ValueError),
        ({"threads": -1}, ValueError),
        ({"threads": 2**31}, ValueError),
        ({"gating": "none"}, ValueError),
        ({"first_layer": "last"}, ValueError),
        ({"allocation": "fair"}, ValueError),
        ({"gating": None}, TypeError),
        ({"kernels": None}, TypeError),
        ({"policy": 5}, TypeError),
        ({"experts_resident": math.nan}, ValueError),
        ({"experts_resident": 1.1}, ValueError),
        ({"max_context": -1}, ValueError),
        ({"max_context": 2**63}, ValueError),
        ({"max_sequences": 0}, ValueError),
        ({"prefetch": 4}, ValueError),
        ({"prefill_chunk": 0}, ValueError),
        ({"gating_threshold": -0.1}, ValueError),
        ({"gating_threshold": math.inf}, ValueError),
        ({"sensitivity": 1.0}, TypeError),
        ({"sensitivity": "1"}, TypeError),
        ({"sensitivity": [1.0, "1"]}, TypeError),
        ({"sensitivity": [1.0, math.nan]}, ValueError),
        ({"read_depth": 0}, ValueError),
        ({"request_bytes": 4097}, ValueError),
        ({"eviction": "lru"}, TypeError),
    ],
)
def test_other_settings_of_llm_are_refused_by_name(setting, kind):
    (name,) = setting
    with pytest.raises(kind, match=f"{name}|not a size"):
        LLM("pack", **setting)


@pytest.mark.parametrize("path", [None, b"x"])
def test_a_path_is_text(path):
    with pytest.raises(TypeError, match="path must be a path"):
        LLM(path)


def test_settings_become_plain_values():
    given = {
        "memory": np.int64(2**33),
        "threads": np.uint8(3),
        "experts_resident": np.float32(0.5),
        "sensitivity": np.array([0.5, 1.0], np.float32),
        "request_bytes": 8192,
    }
    del given["memory"]
    found = Settings(**given)
    assert (found.threads, found.experts_resident) == (3, 0.5)
    assert (found.sensitivity, found.request_bytes) == ([0.5, 1.0], 8192)
    assert type(found.threads) is int
    assert type(Settings(np.int64(2**33)).memory) is int
    assert Settings("12GiB").memory == "12GiB"
    assert Settings("12GiB").for_core()["memory"] == 12 << 30
