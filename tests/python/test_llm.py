# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path

import numpy as np
import pytest

import adapmoe
from adapmoe.generation.stats import describe_split, split_as_dict


def test_the_steps_return_the_last_logits_and_their_statistics(open_llm):
    llm = open_llm()
    with llm.new_sequence() as sequence:
        with pytest.raises(ValueError, match="no step"):
            _ = sequence.last_stats
        last = sequence.prefill([1, 5, 9])
        assert last.dtype == np.float32
        assert last.shape == (llm.vocab_size,)
        assert sequence.last_stats.tokens == 3
        after = sequence.decode(7)
        assert sequence.last_stats.tokens == 1
        assert sequence.length == 4
        sequence.reset()
        every = sequence.prefill(np.array([1, 5, 9, 7]), all_logits=True)
        assert every.shape == (4, llm.vocab_size)
        assert np.array_equal(every[2], last)
        assert np.array_equal(every[3], after)
    assert sequence.closed


def test_a_batch_is_what_each_sequence_gives_alone(open_llm):
    llm = open_llm(max_sequences=3)
    a, b, alone = (llm.new_sequence() for _ in range(3))
    a.prefill([1, 5])
    b.prefill([1, 8, 8])
    rows = llm.decode_batch([(b, 4), (a, np.int64(3))])
    alone.prefill([1, 8, 8])
    assert np.array_equal(rows[0], alone.decode(4))
    alone.reset()
    alone.prefill([1, 5])
    assert np.array_equal(rows[1], alone.decode(3))
    assert a.last_stats.tokens == b.last_stats.tokens == 1


def test_closing_closes_the_sequences(open_llm):
    llm = open_llm(max_sequences=2)
    sequence = llm.new_sequence()
    assert llm.free_sequences == 1
    llm.close()
    assert sequence.closed
    llm.close()
    for use in (
        llm.new_sequence,
        lambda: llm.generate([1]),
        lambda: llm.stats,
        lambda: llm.decode_batch([(sequence, 1)]),
        lambda: sequence.prefill([1]),
        lambda: sequence.decode(1),
        lambda: sequence.truncate(0),
        sequence.reset,
        sequence.fork,
    ):
        with pytest.raises(adapmoe.ClosedError, match="closed"):
            use()
    assert sequence.length == 0


def test_truncate_keeps_a_prefix(open_llm):
    with open_llm().new_sequence() as sequence:
        expected = sequence.prefill([1, 5, 9])
        sequence.decode(7)
        sequence.truncate(2)
        assert sequence.length == 2
        assert np.array_equal(sequence.decode(9), expected)
        for wrong in (-1, 4):
            with pytest.raises(ValueError, match="truncate"):
                sequence.truncate(wrong)


def test_forks_go_their_own_ways(open_llm):
    llm = open_llm(max_sequences=2)
    first = llm.new_sequence()
    first.prefill([1, 5])
    second = first.fork()
    assert llm.free_sequences == 0
    with pytest.raises(adapmoe.AdapmoeError, match="in use"):
        first.fork()
    expected = first.decode(9)
    first.decode(3)
    assert (first.length, second.length) == (4, 2)
    assert np.array_equal(second.decode(9), expected)
    second.close()
    assert llm.free_sequences == 1
    with first.fork(1) as shorter:
        assert shorter.length == 1
        assert np.array_equal(shorter.prefill([5, 9]), expected)
    with pytest.raises(ValueError, match="fork: length"):
        first.fork(5)


def test_set_memory_returns_the_new_split(open_llm):
    llm = open_llm()
    assert llm.set_memory("12MiB").memory_bytes == 12 * 2**20
    assert llm.memory_split.memory_bytes == 12 * 2**20
    with pytest.raises(adapmoe.BudgetError, match="floor"):
        llm.set_memory(5)
    for wrong in ("auto", "much", 0):
        with pytest.raises(ValueError, match=r"size|positive"):
            llm.set_memory(wrong)


def test_settings_reach_the_session(open_llm):
    llm = open_llm(memory="2GiB", threads=3, policy="lru", sensitivity=(0.5, 1.0), max_context=99)
    options = llm._session.options
    assert options["memory"] == 2**31
    assert options["threads"] == 3
    assert options["policy"] == "lru"
    assert options["sensitivity"] == [0.5, 1.0]
    assert options["experts_resident"] == 0.0
    assert (llm.max_context, llm.max_sequences, llm.backend) == (99, 1, "fake/none")
    assert open_llm()._session.options["memory"] == 0
    assert open_llm()._session.options["threads"] == 0


def test_memory_and_experts_resident_exclude_each_other(open_llm):
    assert open_llm(experts_resident=0.5)._session.options["experts_resident"] == 0.5
    with pytest.raises(ValueError, match="memory and experts_resident exclude each other"):
        open_llm(memory="1GiB", experts_resident=0.5)
    with pytest.raises(ValueError, match="experts_resident must be from 0 to 1"):
        open_llm(experts_resident=1.5)


def test_verbose_prints_the_split_to_stderr(open_llm, capsys):
    open_llm(verbose=True)
    output = capsys.readouterr()
    assert output.out == ""
    assert "32 of 64 tiles" in output.err
    for label in ("memory", "dense weights", "KV cache", "scratch", "experts"):
        assert label in output.err
    open_llm()
    assert capsys.readouterr().err == ""


def test_the_split_names_the_cpus_share_where_the_ceiling_is_a_gpus(open_llm):
    split = open_llm().memory_split
    assert "CPU memory" not in describe_split(split)
    split.host_bytes = 42 << 20
    assert "CPU memory beside       42.00 MiB" in describe_split(split)
    assert split_as_dict(split)["host_bytes"] == 42 << 20


def test_notes_of_the_session_are_warnings(open_llm, caplog):
    open_llm({"notes": ["O_DIRECT refused"]})
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "O_DIRECT refused")
    ]


def test_a_note_that_came_up_while_running_is_told_once(open_llm, caplog):
    llm = open_llm({"notes": ["O_DIRECT refused"]})
    llm._session.notes.append("no CUDA graph")
    for _ in range(2):
        llm.generate([1], adapmoe.SamplingParams(max_tokens=1))
    told = ["O_DIRECT refused", "no CUDA graph"]
    assert [r.getMessage() for r in caplog.records] == told
    llm._session.notes.append("an engine failed")
    llm.close()
    llm.close()
    assert [r.getMessage() for r in caplog.records] == [*told, "an engine failed"]


def test_errors_have_the_builtin_bases_callers_expect():
    assert issubclass(adapmoe.ReadError, OSError)
    assert issubclass(adapmoe.ContextOverflowError, ValueError)
    assert str(adapmoe.ReadError("experts.safetensors: short read")).startswith("experts")
    for name in adapmoe.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(adapmoe, name), adapmoe.AdapmoeError)


def test_the_version_is_the_one_of_the_project():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.*)"', text, re.MULTILINE)[1] == adapmoe.__version__
