# SPDX-License-Identifier: Apache-2.0
"""What the core itself promises about sequences and memory, below the Python package."""

import numpy as np
import pytest

from adapmoe import _core
from adapmoe.errors import (
    BackendUnavailableError,
    BudgetError,
    ClosedError,
    ContextOverflowError,
)

IDS = np.arange(5, 45, dtype=np.int32)
ONE = np.array([1], np.int32)


@pytest.fixture
def session(pack_factory):
    opened = _core.Session(
        str(pack_factory(tile_width=64)), max_context=128, max_sequences=2, experts_resident=0.5
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
        with pytest.raises(ValueError, match="cannot keep"):
            seq.truncate(wrong)
    seq.truncate(0)
    assert seq.length == 0


def test_fork_continues_independently(session):
    seq = session.new_sequence()
    seq.prefill(IDS)
    for wrong in (-1, 41):
        with pytest.raises(ValueError, match="cannot keep"):
            seq.fork(wrong)
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
    with pytest.raises(ClosedError, match="closed"):
        first.decode(1)
    del second  # dropping gives the place back too
    kept = [session.new_sequence(), session.new_sequence()]
    assert len(kept) == 2


def test_closed_session_is_refused_everywhere(session):
    seq = session.new_sequence()
    session.close()
    assert seq.closed
    refused = {*properties(_core.Session), *USES_OF_SESSION}
    assert refused | {"close"} == {n for n in dir(_core.Session) if not n.startswith("_")}
    for name in refused:
        with pytest.raises(ClosedError, match="the session is closed"):
            use(session, name, USES_OF_SESSION)
    assert_uses_are_refused(seq, "the session is closed")
    seq.close()
    session.close()


def test_closed_sequence_is_refused_everywhere(session):
    seq = session.new_sequence()
    seq.close()
    assert_uses_are_refused(seq, "the sequence is closed")
    with pytest.raises(ClosedError, match="the sequence is closed"):
        session.step([(seq, ONE, "last")])


USES_OF_SESSION = {
    "new_sequence": (),
    "step": ([],),
    "set_memory": (1 << 30,),
    "set_gating": ("off",),
    "set_layer_floors": ([],),
    "record_trace": (True,),
    "trace": (),
    "prediction_scores": (),
    "resident_set": (),
    "expert_states": (),
    "warm": ([(0, 0)],),
    "timeline": (),
}
USES_OF_SEQUENCE = {
    "prefill": (IDS,),
    "capture": (IDS,),
    "decode": (1,),
    "truncate": (0,),
    "reset": (),
    "fork": (),
}


def properties(kind):
    return {n for n in dir(kind) if not n.startswith("_") and not callable(getattr(kind, n))}


def use(core, name, calls):
    found = getattr(core, name)
    return found(*calls[name]) if name in calls else found


def assert_uses_are_refused(sequence, message):
    known = {*USES_OF_SEQUENCE, *properties(_core.Sequence), "close"}
    assert known == {n for n in dir(_core.Sequence) if not n.startswith("_")}
    for name in USES_OF_SEQUENCE:
        with pytest.raises(ClosedError, match=message):
            use(sequence, name, USES_OF_SEQUENCE)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("threads", -1),
        ("max_context", 4096),
        ("max_sequences", 0),
        ("prefill_chunk", 0),
        ("reader", "mmap"),
        ("read_depth", 0),
        ("request_bytes", -4096),
        ("request_bytes", 100),
        ("experts_resident", 1.5),
        ("kv_dtype", "f8"),
        ("policy", "random"),
        ("verify", "sometimes"),
        ("gating", "magic"),
        ("gating_threshold", -0.1),
        ("backend", "tpu"),
        ("arithmetic", "magic"),
        ("memory", -5),
    ],
)
def test_settings_out_of_range_are_named(pack_factory, option, value):
    with pytest.raises(ValueError, match=option):
        _core.Session(str(pack_factory()), **{option: value})


WRONG_TYPES = {
    int: ["2", 2.5, None, True, [2]],
    float: ["0.5", None, False, 1j, [0.5], 10**400],
    bool: [1, None, "yes", 0.0],
    str: [None, 1, b"auto", ["auto"]],
    list: [None, "abc", 5, ["a"], [None]],
}


@pytest.mark.parametrize("name", _core.session_settings())
def test_settings_of_another_type_are_named(name):
    for value in WRONG_TYPES[type(_core.session_settings()[name])]:
        with pytest.raises(TypeError, match=rf"^{name}: expected .*, not "):
            _core.Session("no pack is needed", **{name: value})


@pytest.mark.parametrize("name", ["memory", "threads", "max_context"])
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30])
def test_integers_beyond_all_bounds_are_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value}: out of range"):
        _core.Session("no pack is needed", **{name: value})


def test_a_setting_that_does_not_exist_is_a_type_error_that_lists_all():
    with pytest.raises(TypeError, match=r"no setting is called 'thread'.* memory,.* threads,"):
        _core.Session("no pack is needed", thread=2)
    with pytest.raises(TypeError):
        _core.Session("no pack is needed", 2**30)


def test_numpy_numbers_are_taken_and_defaults_can_be_passed(pack_factory):
    pack = str(pack_factory())
    given = _core.session_settings() | {"threads": np.int64(1), "experts_resident": np.float32(0.5)}
    given |= {"gating": "sensitivity", "sensitivity": np.ones(8, np.float32)}
    session = _core.Session(pack, **given)
    assert session.memory_split.frames < session.memory_split.frames_total
    session.close()


def test_more_threads_than_cores_is_a_note_for_the_user(pack_factory):
    pack, cores = str(pack_factory()), _core.usable_cpus()
    for threads, told in ((0, False), (1, False), (cores, False), (cores + 1, True), (64, True)):
        session = _core.Session(pack, threads=threads, max_context=64)
        notes = [note for note in session.notes if note.startswith(f"threads={threads} ")]
        assert bool(notes) == told, (threads, session.notes)
        assert all(f"quota), {cores}: " in note for note in notes)
        session.close()


def test_engines_need_the_gpu_backend_and_inexactness(pack_factory):
    pack = str(pack_factory())
    with pytest.raises(ValueError, match="is a way of the GPU backend"):
        _core.Session(pack, arithmetic="tensorrt", exact=False)
    with pytest.raises(ValueError, match="allow that with exact=False"):
        _core.Session(pack, backend="cuda", arithmetic="tensorrt")
    if not _core.build_info()["cuda"]:
        with pytest.raises(BackendUnavailableError, match=r'backend="cuda".*adapmoe doctor'):
            _core.Session(pack, backend="cuda", arithmetic="tensorrt", exact=False)


def test_step_arguments_are_checked(session):
    seq, other = session.new_sequence(), session.new_sequence()
    for ids in ([], [4096], [-1]):
        with pytest.raises(ValueError, match=r"token id"):
            seq.prefill(np.array(ids, np.int32))
    with pytest.raises(ValueError, match="max_context=128"):
        seq.prefill(np.zeros(129, np.int32))
    with pytest.raises(ValueError, match="twice"):
        session.step([(seq, ONE, "last"), (seq, ONE, "last")])
    assert seq.length == other.length == 0
    with pytest.raises(ValueError, match="at least one sequence"):
        session.step([])
    with pytest.raises(ValueError, match="none, last or all, not most"):
        session.step([(seq, ONE, "most")])
    # Whatever is wrong with one item, nothing is appended to the others.
    for wrong in (np.array([4096], np.int32), np.zeros(129, np.int32), np.zeros(0, np.int32)):
        with pytest.raises((ValueError, ContextOverflowError)):
            session.step([(seq, ONE, "last"), (other, wrong, "none")])
    assert seq.length == other.length == 0
    rows, stats = session.step([(seq, IDS, "all"), (other, IDS, "none")])
    assert (rows.shape, len(stats)) == ((40, 4096), 2)
    assert seq.length == other.length == 40
