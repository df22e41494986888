# SPDX-License-Identifier: Apache-2.0
"""A pack appears complete or not at all."""

import shutil
from types import SimpleNamespace

import pytest

from adapmoe_export import ExportError, export_pack
from adapmoe_export.destination import staged_directory
from support.models.checkpoints import make_config, make_tensors, write_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    config = make_config(num_hidden_layers=1)
    return write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config))


def test_existing_pack_is_kept_unless_overwritten(checkpoint, tmp_path):
    out = tmp_path / "out.adapmoe"
    export_pack(checkpoint, out)
    before = (out / "experts.safetensors").read_bytes()
    with pytest.raises(ExportError, match=r"exists already.*--overwrite"):
        export_pack(checkpoint, out, experts="int8")
    assert (out / "experts.safetensors").read_bytes() == before
    export_pack(checkpoint, out, experts="int8", overwrite=True)
    assert len((out / "experts.safetensors").read_bytes()) > len(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out.adapmoe"]


def test_overwrite_never_replaces_anything_but_a_pack(checkpoint, tmp_path):
    out = tmp_path / "photos"
    out.mkdir()
    (out / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(ExportError, match="is not a pack"):
        export_pack(checkpoint, out, overwrite=True)
    assert (out / "photo.jpg").read_bytes() == b"mine"


def test_export_interrupted_before_anything_is_finished_leaves_nothing(checkpoint, tmp_path):
    def interrupt(done, total):
        assert 0 < done <= total
        raise KeyboardInterrupt

    out = tmp_path / "out.adapmoe"
    with pytest.raises(KeyboardInterrupt):
        export_pack(checkpoint, out, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_remains_that_record_no_finished_work_are_replaced(checkpoint, tmp_path):
    partial = tmp_path / "out.adapmoe.partial"
    (partial / "pack").mkdir(parents=True)
    (partial / "pack" / "dense.safetensors").write_bytes(b"half")
    (partial / "journal").write_bytes(b"not a journal")
    (partial / "else").write_bytes(b"")
    export_pack(checkpoint, tmp_path / "out.adapmoe")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out.adapmoe"]


def test_old_pack_comes_back_after_a_kill_between_the_renames(checkpoint, tmp_path):
    out, replaced = tmp_path / "out.adapmoe", tmp_path / "out.adapmoe.replaced"
    export_pack(checkpoint, out)
    out.rename(replaced)
    with pytest.raises(ExportError, match="exists already"):
        export_pack(checkpoint, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out.adapmoe"]


def test_two_exports_of_one_pack_are_refused(checkpoint, tmp_path):
    out = tmp_path / "out.adapmoe"
    refused = []

    def second(done, total):
        with pytest.raises(ExportError, match=r"another export is writing this pack"):
            export_pack(checkpoint, out)
        refused.append(done)

    export_pack(checkpoint, out, progress=second)
    assert refused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "out.adapmoe"]


def test_full_disk_is_refused_before_writing(checkpoint, tmp_path, monkeypatch):
    usage = SimpleNamespace(total=1 << 40, used=1 << 40, free=1 << 16)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ExportError, match=r"needs \d+ bytes .* only 65536 are free"):
        export_pack(checkpoint, tmp_path / "out.adapmoe")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_progress_ends_at_the_total(checkpoint, tmp_path):
    calls = []
    export_pack(checkpoint, tmp_path / "out", progress=lambda *call: calls.append(call))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


def test_unwritable_destination_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ExportError, match="cannot write there"),
        staged_directory(tmp_path / "file" / "out", False, 0),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": "int3"}, "experts: unknown dtype 'int3'"),
        ({"dense": "bf16"}, "dense: unknown dtype"),
        ({"group_size": 16}, "choose 32, 64 or 128"),
        ({"threads": -1}, "threads -1"),
        ({"tile_width": 40}, "multiple of 32"),
    ],
)
def test_bad_options_are_refused(checkpoint, tmp_path, options, message):
    with pytest.raises(ExportError, match=message):
        export_pack(checkpoint, tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
