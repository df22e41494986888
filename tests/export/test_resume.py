# SPDX-License-Identifier: Apache-2.0
"""G11: a pack written in one go equals one that was resumed after kills, full disks and Ctrl-C."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from adapmoe import _core
from adapmoe.errors import CheckpointError, PackError
from adapmoe_export import ExportError, export_pack
from support.models.big_checkpoint import big_config, write_big_checkpoint
from support.models.checkpoints import make_config, make_tensors, write_checkpoint

KILLS = 10


def contents(pack):
    return {path.name: path.read_bytes() for path in sorted(pack.iterdir())}


def start(checkpoint, out):
    command = [sys.executable, "-m", "adapmoe.cli.main", "export", str(checkpoint), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def partial_of(out):
    return out.with_name(out.name + ".partial")


def bytes_written(out):
    total = 0
    for path in partial_of(out).rglob("*"):
        with suppress(FileNotFoundError):  # renamed or removed just now
            total += path.stat().st_size
    return total


def wait_for_bytes(process, out, wanted):
    while process.poll() is None and bytes_written(out) < wanted:
        time.sleep(0.0005)


def assert_no_pack(out):
    for path in (out, partial_of(out)):
        with pytest.raises(PackError):
            _core.inspect_pack(str(path))


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A checkpoint that takes about a second, and its pack written in one go."""
    folder = tmp_path_factory.mktemp("big")
    checkpoint = write_big_checkpoint(folder / "checkpoint", big_config(512, 1024, 4, 8)).path
    export_pack(checkpoint, folder / "whole.adapmoe")
    return checkpoint, contents(folder / "whole.adapmoe")


def test_g11_killed_at_ten_points_and_resumed(big, tmp_path):
    checkpoint, whole = big
    out = tmp_path / "out.adapmoe"
    size = sum(len(data) for data in whole.values())
    points = sorted(random.Random(11).sample(range(size // 50, size), KILLS))
    resumed = killed = 0
    for wanted in points:
        process = start(checkpoint, out)
        wait_for_bytes(process, out, wanted)
        process.kill()
        _, stderr = process.communicate()
        if out.exists():  # the last point may come too late
            break
        killed += 1
        resumed += "were finished before and are intact" in stderr
        assert_no_pack(out)
    assert killed >= KILLS - 1
    assert resumed >= KILLS // 2  # a run killed early has not said so yet
    if not out.exists():
        process = start(checkpoint, out)
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
        assert "resuming experts.safetensors: " in stderr
    assert contents(out) == whole
    assert not partial_of(out).exists()


def test_ctrl_c_keeps_what_is_finished_and_says_so(big, tmp_path):
    checkpoint, whole = big
    out = tmp_path / "out.adapmoe"
    process = start(checkpoint, out)
    wait_for_bytes(process, out, sum(len(data) for data in whole.values()) // 2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert f"interrupted; {partial_of(out)} keeps what is finished" in stderr
    assert_no_pack(out)
    export_pack(checkpoint, out)
    assert contents(out) == whole


def test_full_disk_keeps_what_is_finished_and_says_what_to_do(big, tmp_path):
    checkpoint, whole = big
    out = tmp_path / "out.adapmoe"
    limit = len(whole["experts.safetensors"]) // 2

    process = start(checkpoint, out)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))  # it is importing still
    _, stderr = process.communicate()
    assert process.returncode == 1
    message = " ".join(stderr.split())
    assert f"{partial_of(out)}: cannot write: File too large; the pack needs " in message
    assert "what is finished is kept: run the same command again to resume" in message
    assert_no_pack(out)
    process = start(checkpoint, out)
    _, stderr = process.communicate()
    assert process.returncode == 0
    assert "resuming dense.safetensors: " in stderr
    assert contents(out) == whole


class Stopped(Exception):
    pass


@pytest.fixture
def stopped(tmp_path):
    """(checkpoint, out, the whole pack): `out` was interrupted after three quarters."""
    config = make_config(num_hidden_layers=4)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config))
    export_pack(checkpoint, tmp_path / "whole.adapmoe")

    def stop(done, total):
        if done > total * 3 // 4:
            raise Stopped

    out = tmp_path / "out.adapmoe"
    with pytest.raises(Stopped):
        export_pack(checkpoint, out, progress=stop)
    assert_no_pack(out)
    return checkpoint, out, contents(tmp_path / "whole.adapmoe")


def finish(checkpoint, out, **options):
    """Run to the end; what the user is told."""
    notices = []
    export_pack(checkpoint, out, notice=notices.append, **options)
    assert not partial_of(out).exists()
    return [notice for notice in notices if "no tokenizer" not in notice]


def test_resumed_pack_is_identical(stopped):
    checkpoint, out, whole = stopped
    (partial_of(out) / "pack" / "chat_template.jinja").write_text("of an older checkpoint")
    notices = finish(checkpoint, out)
    assert notices[0].startswith("resuming dense.safetensors: 32 of 32 tensors")
    assert notices[1].startswith("resuming experts.safetensors: ")
    assert contents(out) == whole


def test_fresh_starts_over(stopped):
    checkpoint, out, whole = stopped
    assert finish(checkpoint, out, fresh=True) == []
    assert contents(out) == whole


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_torn_journal_is_worth_its_intact_lines(stopped, keep):
    checkpoint, out, whole = stopped
    journal = partial_of(out) / "journal"
    data = journal.read_bytes()
    journal.write_bytes(data[: int(len(data) * keep)])
    notices = finish(checkpoint, out)
    assert bool(notices) == (keep > 0)
    assert contents(out) == whole


@pytest.mark.parametrize("file", ["dense.safetensors", "experts.safetensors"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6])
def test_damaged_bytes_are_found_and_written_again(stopped, file, place):
    checkpoint, out, whole = stopped
    path = partial_of(out) / "pack" / file
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 16
    path.write_bytes(data)
    finish(checkpoint, out)
    assert contents(out) == whole


@pytest.mark.parametrize("file", ["dense.safetensors", "experts.safetensors"])
@pytest.mark.parametrize("keep", [None, 0.0, 0.5])
def test_lost_bytes_are_written_again(stopped, file, keep):
    checkpoint, out, whole = stopped
    path = partial_of(out) / "pack" / file
    if keep is None:
        path.unlink()
    else:
        os.truncate(path, int(path.stat().st_size * keep))
    finish(checkpoint, out)
    assert contents(out) == whole


@pytest.mark.parametrize("options", [{"experts": "int8"}, {"dense": "f16"}, {"tile_width": 32}])
def test_other_options_start_over(stopped, tmp_path, options):
    checkpoint, out, _ = stopped
    assert finish(checkpoint, out, **options) == []
    export_pack(checkpoint, tmp_path / "other.adapmoe", **options)
    assert contents(out) == contents(tmp_path / "other.adapmoe")


def test_thread_count_does_not_matter(stopped):
    checkpoint, out, whole = stopped
    assert finish(checkpoint, out, threads=1)
    assert contents(out) == whole


def test_changed_checkpoint_starts_over(stopped):
    checkpoint, out, whole = stopped
    path = checkpoint / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert finish(checkpoint, out) == []
    assert contents(out) != whole


def test_bad_checkpoint_keeps_nothing(stopped):
    checkpoint, out, _ = stopped
    config = make_config(num_hidden_layers=4)
    tensors = make_tensors(config)
    tensors["model.layers.3.block_sparse_moe.experts.3.w2.weight"][0, 0] = float("nan")
    bad = write_checkpoint(checkpoint.with_name("bad"), config, tensors)
    with pytest.raises(CheckpointError, match="holds nan"):
        export_pack(bad, out)
    assert not partial_of(out).exists()


def test_work_survives_a_refusal(stopped, monkeypatch):
    checkpoint, out, whole = stopped
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))
        with pytest.raises(ExportError, match="only 0 are free"):
            export_pack(checkpoint, out)
    assert finish(checkpoint, out)
    assert contents(out) == whole
