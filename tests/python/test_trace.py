# SPDX-License-Identifier: Apache-2.0
"""Trace files: what was written is read back, and anything else is refused."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapmoe.core_types import RoutingVisit
from adapmoe.errors import TraceError
from adapmoe.pack.manifest import PackGeometry
from adapmoe.tracing.trace import Trace, recording

GEOMETRY = PackGeometry("ab" * 32, 3, 4, 2, 4096, 1 << 20)
VISITS = [(0, 0, [0, 1, 2]), (0, 1, [3]), (1, 0, [1, 2]), (1, 2, [0, 3])]
TRACE = Trace(GEOMETRY, [RoutingVisit(*visit) for visit in VISITS])

experts = st.sets(st.integers(0, 3), min_size=1).map(sorted)
visits = st.lists(st.builds(RoutingVisit, st.integers(0, 2**31 - 1), st.integers(0, 2), experts))


@settings(max_examples=40)
@given(visits)
def test_what_is_saved_is_loaded(found):
    trace = Trace(GEOMETRY, sorted(found, key=lambda visit: visit.pass_index))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.npz"
        trace.save(path)
        assert Trace.load(path) == trace
        assert [entry.name for entry in path.parent.iterdir()] == ["t.npz"]


def test_the_same_trace_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        TRACE.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_counts_and_passes():
    assert TRACE.passes == 2
    assert TRACE.counts().tolist() == [[1, 2, 2, 0], [0, 0, 0, 1], [1, 0, 0, 1]]


def test_decode_only_drops_passes_that_need_more_than_one_token_can():
    assert TRACE.decode_only().visits == TRACE.visits[2:]


def forge(path, fields=None, **changes):
    """Write TRACE's file with something else in it; None leaves an array out."""
    TRACE.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays |= changes
    if fields is not None:
        arrays["header"] = np.array(json.dumps(json.loads(str(arrays["header"][()])) | fields))
    with path.open("wb") as file:
        np.savez(file, **{k: v for k, v in arrays.items() if v is not None})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experts": None}, "not a trace"),
        ({"header": np.array("no json")}, "not a trace"),
        ({"header": np.array(["a", "b"])}, "not a trace"),
        ({"header": np.array("[]")}, "Expected `object`"),
        ({"header": np.array("[" * 100_000)}, "not a trace"),
        ({"header": np.array('{"format": ' + "[" * 100_000)}, "not a trace"),
        ({"layers": np.array([0, 1, 0, 3])}, "out of range"),
        ({"passes": np.array([0, 0, -1, 1])}, "out of range"),
        ({"experts": np.array([0, 1, 2, 4, 1, 2, 0, 3])}, "out of range"),
        ({"counts": np.array([3, 1, 2, 0])}, "lengths"),
        ({"counts": np.array([3, 1, 4, 0])}, "out of range"),
        ({"passes": np.zeros((2, 2), int)}, "dimension"),
        ({"passes": np.array(["x", "y", "z", "w"])}, "not a trace"),
    ],
)
def test_forged_arrays_are_refused(tmp_path, changes, words):
    forge(tmp_path / "t.npz", **changes)
    with pytest.raises(TraceError, match=words):
        Trace.load(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "other"}, "does not say"),
        ({"num_layers": 0}, "num_layers"),
        ({"top_k": True}, "top_k"),
        ({"pack": 3}, "pack"),
    ],
)
def test_forged_headers_are_refused(tmp_path, header, words):
    forge(tmp_path / "t.npz", fields=header)
    with pytest.raises(TraceError, match=words):
        Trace.load(tmp_path / "t.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\x93NUMPY\x01\x00"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(TraceError, match=r"t\.npz"):
        Trace.load(tmp_path / "t.npz")


def test_a_cut_file_and_a_missing_one_are_refused(tmp_path):
    path = tmp_path / "t.npz"
    TRACE.save(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(TraceError):
            Trace.load(path)
    with pytest.raises(TraceError, match="no such file"):
        Trace.load(tmp_path / "none.npz")


def test_pickles_are_not_opened(tmp_path):
    np.savez(tmp_path / "t.npz", header=np.array([object()], object))
    with pytest.raises(TraceError):
        Trace.load(tmp_path / "t.npz")


def test_where_nothing_can_be_written(tmp_path):
    with pytest.raises(TraceError, match="cannot be written"):
        TRACE.save(tmp_path / "none" / "t.npz")
    with (
        pytest.raises(TraceError, match="no folder"),
        recording(lambda on: pytest.fail("recorded"), lambda: TRACE, tmp_path / "none" / "t.npz"),
    ):
        pytest.fail("ran")
