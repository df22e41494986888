# SPDX-License-Identifier: Apache-2.0
"""Replacing files, and the cache of small records."""

import logging
import os
import threading
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from adapmoe.machine import files
from adapmoe.machine.files import (
    cached_path,
    check_writable,
    locked_folder,
    read_cached,
    replace_file,
    write_cached,
    write_output,
)
from support.machine.homes import leave_home


class Figures(msgspec.Struct):
    version: Literal[3]
    values: list[int]


RECORD = Figures(3, [1, 2])


def names(folder):
    return [entry.name for entry in folder.iterdir()]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "adapmoe"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_replaced_file_has_the_permissions_that_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        replace_file(tmp_path / "a", b"old")
        replace_file(tmp_path / "a", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_where_it_fails_the_old_file_stays_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "a"
    replace_file(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    data = b"new"
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif call == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        data = None  # file.write raises
    with pytest.raises((OSError, TypeError)):
        replace_file(path, data)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_the_name_is_synced_after_the_bytes(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, Path.replace

    def note_sync(descriptor):
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def note_rename(old, new):
        done.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    replace_file(tmp_path / "a", b"x")
    assert done[0].name.startswith(".a.")
    assert done[1:] == ["rename", tmp_path]


def test_an_output_may_be_a_device_or_behind_a_link(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "a")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_output(pipe, b"x")
        assert os.read(reader, 2) == b"x"
    finally:
        os.close(reader)
    write_output(link, b"y")
    write_output(link, b"z")
    assert link.is_symlink()
    assert (tmp_path / "a").read_bytes() == b"z"
    assert pipe.is_fifo()
    with pytest.raises(IsADirectoryError):
        write_output(tmp_path, b"")


def test_a_file_whose_folder_takes_no_new_one_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"old")
    check_writable(tmp_path / "a")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may do all
    with pytest.raises(ValueError, match="a: cannot be written: Permission denied; name another"):
        check_writable(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_threads_that_replace_a_file_at_once_leave_a_whole_one(tmp_path):
    path, size = tmp_path / "a", 1 << 20
    threads = [
        threading.Thread(target=lambda letter=letter: replace_file(path, letter * size))
        for letter in (b"a", b"b", b"c", b"d") * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in {letter * size for letter in (b"a", b"b", b"c", b"d")}
    assert names(tmp_path) == ["a"]


def test_a_locked_folder_is_rid_of_what_was_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)  # as if killed
    monkeypatch.setattr(files, "publish", lambda temporary, path: None)
    replace_file(tmp_path / "a", b"x")
    monkeypatch.undo()
    assert len(names(tmp_path)) == 1
    with locked_folder(tmp_path):
        assert names(tmp_path) == []


def test_a_record_comes_back(cache):
    assert read_cached("a.json", Figures) is None
    assert write_cached("a.json", RECORD)
    assert read_cached("a.json", Figures) == RECORD
    assert cached_path("a.json") == cache / "a.json"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[",
        b"null",
        b"[" * 200_000,
        b"\xff\xfe",
        b'{"version": 2, "values": []}',
        b'{"values": []}',
        b'{"version": 3, "values": [1.5]}',
        b'{"version": 3, "values": "no"}',
    ],
)
def test_a_damaged_record_is_a_debug_line(cache, caplog, content):
    write_cached("a.json", RECORD)
    (cache / "a.json").write_bytes(content)
    with caplog.at_level(logging.DEBUG, logger="adapmoe"):
        assert read_cached("a.json", Figures) is None
    (line,) = caplog.records
    assert line.levelno == logging.DEBUG
    assert "a.json" in line.message
    assert write_cached("a.json", RECORD)
    assert read_cached("a.json", Figures) == RECORD


def test_a_file_that_is_too_large_or_no_file_is_not_ours(cache):
    write_cached("a.json", RECORD)
    path = cache / "a.json"
    path.write_bytes(b" " * (5 << 20) + path.read_bytes())
    assert read_cached("a.json", Figures) is None
    path.unlink()
    os.mkfifo(path)  # reading it would wait for ever
    assert read_cached("a.json", Figures) is None
    path.unlink()
    path.mkdir()
    assert read_cached("a.json", Figures) is None
    assert not write_cached("a.json", RECORD)


def test_where_records_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):  # the XDG specification says that relative paths do not count
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cached_path("a") == tmp_path / ".cache/adapmoe/a"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cached_path("a") == Path("/x/adapmoe/a")


@pytest.mark.parametrize("home", [None, "relative"])
def test_without_a_home_nothing_is_kept(tmp_path, monkeypatch, caplog, home):
    monkeypatch.chdir(tmp_path)
    leave_home(monkeypatch, home)
    with caplog.at_level(logging.DEBUG, logger="adapmoe"):
        assert read_cached("a.json", Figures) is None
        assert not write_cached("a.json", RECORD)
    assert [line.levelno for line in caplog.records] == [logging.DEBUG]
    assert names(tmp_path) == []


def test_a_home_that_cannot_be_written_is_a_debug_line(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.DEBUG, logger="adapmoe"):
        assert read_cached("a.json", Figures) is None
        assert not write_cached("a.json", RECORD)
    assert {line.levelno for line in caplog.records} == {logging.DEBUG}
