# SPDX-License-Identifier: Apache-2.0
"""What the core itself promises about sequences and memory, below the Python package."""

import numpy as np
import pytest

from adapmoe import _core
from adapmoe.errors import BackendUnavailableError, BudgetError

IDS = np.arange(5, 45, dtype=np.int32)


@pytest.fixture
def session(pack_factory):
    opened = _core.Session(
        str(pack_factory(tile_width=64)), max_context=128, max_sequences=2, expert_fraction=0.5
    )
    yield opened
    opened.close()


def test_truncate_forgets_and_goes_on_as_if_it_had_never_been(session):
    seq = session.new_sequence()
    straight, _ = seq.prefill(IDS)
    seq.truncate(10)
    assert seq.length == 10
    seq.prefill(IDS[::-1].copy())
    seq.truncate(10)
    again, _ = seq.prefill(IDS[10:].copy())
    assert np.array_equal(straight, again)
    for wrong in (-1, 41):
        with pytest.raises(ValueError, match="cannot truncate"):
            seq.truncate(wrong)
    seq.truncate(0)
    assert seq.length == 0


def test_fork_continues_independently(session):
    seq = session.new_sequence()
    seq.prefill(IDS)
    other = seq.fork()
    assert other.length == seq.length
    with pytest.raises(ValueError, match="max_sequences"):
        seq.fork()
    left, _ = seq.decode(7)
    right, _ = other.decode(8)
    seq.truncate(len(IDS))
    other.truncate(len(IDS))
    assert np.array_equal(seq.decode(8)[0], right)
    assert np.array_equal(other.decode(7)[0], left)


def test_set_memory_shrinks_and_regrows_without_changing_a_bit(session):
    seq = session.new_sequence()
    expected, _ = seq.prefill(IDS)
    split = session.memory_split
    for memory in (split.floor_bytes, 1 << 30, split.floor_bytes + 3 * split.tile_bytes, 1 << 30):
        changed = session.set_memory(memory)
        assert changed.frames == session.memory_split.frames
        assert changed.frames == min(
            split.frames_total,
            (memory - split.dense_bytes - split.kv_bytes - split.scratch_bytes) // split.tile_bytes,
        )
        seq.reset()
        assert np.array_equal(seq.prefill(IDS)[0], expected)
    seq.reset()
    _, stats = seq.prefill(IDS)
    assert stats.expert_hits == stats.experts_used  # all of them fit now
    with pytest.raises(BudgetError, match="below the floor"):
        session.set_memory(split.floor_bytes - 1)
    assert session.memory_split.frames == split.frames_total  # the old ceiling stays


def test_places_come_back(session):
    first, second = session.new_sequence(), session.new_sequence()
    with pytest.raises(ValueError, match="max_sequences=2"):
        session.new_sequence()
    first.close()
    first.close()
    assert first.closed
    with pytest.raises(ValueError, match="closed"):
        first.decode(1)
    del second  # dropping gives the place back too
    kept = [session.new_sequence(), session.new_sequence()]
    assert len(kept) == 2


def test_closed_session_is_refused_everywhere(session):
    seq = session.new_sequence()
    session.close()
    assert seq.closed
    for call in (session.new_sequence, lambda: seq.decode(1), lambda: session.memory_split):
        with pytest.raises(ValueError, match="closed"):
            call()
    seq.close()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("threads", -1),
        ("max_context", 4096),
        ("max_sequences", 0),
        ("prefill_chunk", 0),
        ("reader", "mmap"),
        ("readers", 0),
        ("request_bytes", -4096),
        ("request_bytes", 100),
        ("expert_fraction", 1.5),
        ("kv_dtype", "f8"),
        ("policy", "random"),
        ("verify", "sometimes"),
        ("gating", "magic"),
        ("gating_threshold", -0.1),
        ("backend", "tpu"),
        ("experts", "magic"),
        ("memory_bytes", -5),
    ],
)
def test_settings_out_of_range_are_named(pack_factory, option, value):
    with pytest.raises(ValueError, match=option):
        _core.Session(str(pack_factory()), **{option: value})


def test_engines_need_the_gpu_backend_and_inexactness(pack_factory):
    pack = str(pack_factory())
    with pytest.raises(ValueError, match="is a way of the GPU backend"):
        _core.Session(pack, experts="tensorrt", exact=False)
    with pytest.raises(ValueError, match="allow that with exact=False"):
        _core.Session(pack, backend="cuda", experts="tensorrt")
    if not _core.build_info()["cuda"]:
        with pytest.raises(BackendUnavailableError, match=r'backend="cuda".*adapmoe doctor'):
            _core.Session(pack, backend="cuda", experts="tensorrt", exact=False)


def test_step_arguments_are_checked(session):
    seq, other = session.new_sequence(), session.new_sequence()
    for ids in ([], [4096], [-1]):
        with pytest.raises(ValueError, match=r"token id"):
            seq.prefill(np.array(ids, np.int32))
    with pytest.raises(ValueError, match="max_context=128"):
        seq.prefill(np.zeros(129, np.int32))
    with pytest.raises(ValueError, match="twice"):
        session.decode_batch([(seq, 1), (seq, 2)])
    assert seq.length == other.length == 0
    assert session.decode_batch([(seq, 1), (other, 1)])[0].shape == (2, 4096)
