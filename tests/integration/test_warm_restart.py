# SPDX-License-Identifier: Apache-2.0
"""The resident set survives a restart, and is never worth an error."""

import json
import logging
import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from adapmoe import LLM, SamplingParams
from adapmoe.cli.main import app
from adapmoe.opening.warm_restart import WarmRestart
from adapmoe.pack.manifest import manifest_sha256
from support.machine.homes import leave_home

PROMPT = "The function returns"
OPTIONS = {"experts_resident": 0.5, "max_context": 128}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "adapmoe"


@pytest.fixture
def pack(pack_factory):
    return pack_factory()


@pytest.fixture
def saved(cache, pack):
    """Where the set of `pack` is, after a generation."""
    run(pack)
    return cache / f"{manifest_sha256(pack)}.json"


def run(pack, **options):
    """Generate, close, and return (experts resident when opened and warmed, resident at close)."""
    with LLM(pack, **{**OPTIONS, **options}) as llm:
        before = settled(llm)
        llm.generate(PROMPT, SamplingParams(max_tokens=8, ignore_eos=True))
        after = llm._session.resident_set()
    return before, after


def settled(llm):
    """The resident set once no background read arrives any more."""
    found = llm._session.resident_set()
    while True:
        time.sleep(0.05)
        now = llm._session.resident_set()
        if now == found:
            return now
        found = now


def test_what_was_resident_is_resident_again(pack, saved):
    content = json.loads(saved.read_text())
    assert saved.stat().st_size < 4096
    before, after = run(pack)
    assert before
    assert sorted(before) == [tuple(pair) for pair in content["experts"]]
    assert json.loads(saved.read_text())["experts"] == [list(e) for e in sorted(after)]
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_the_next_run_hits_more(pack, saved):
    def first_pass_hits(warm):
        with LLM(pack, **OPTIONS, prefetch=0, warm_restart=warm) as llm:
            settled(llm)
            llm.generate(PROMPT, SamplingParams(max_tokens=1))
            return llm.stats.expert_hits

    assert first_pass_hits(False) == 0
    assert first_pass_hits(True) > 0


def test_a_smaller_ceiling_takes_the_first_of_them(pack, saved):
    everything = [tuple(pair) for pair in json.loads(saved.read_text())["experts"]]
    before, _ = run(pack, experts_resident=0.125)
    assert 0 < len(before) < len(everything)
    assert sorted(before) == everything[: len(before)]


def test_off_means_off(pack, cache):
    run(pack, warm_restart=False)
    assert not cache.exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[",
        "[]",
        "null",
        "[" * 100_000,
        '{"version": 2, "manifest_sha256": "SHA", "experts": [[0, 0]]}',
        '{"version": 1, "manifest_sha256": "other", "experts": [[0, 0]]}',
        '{"version": 1, "manifest_sha256": "SHA", "experts": [[0]]}',
        '{"version": 1, "manifest_sha256": "SHA", "experts": [[0, "a"]]}',
        '{"version": 1, "manifest_sha256": "SHA", "experts": [[0, 1e999]]}',
        '{"version": 1, "manifest_sha256": "SHA", "experts": [[0, 99999999999999999999]]}',
        '{"version": 1, "manifest_sha256": "SHA", "experts": 5}',
        '{"version": 1, "manifest_sha256": "SHA", "experts": [[1000, 0], [0, 1000]]}',
    ],
)
def test_stale_and_damaged_files_are_ignored_and_replaced(pack, saved, content):
    saved.write_text(content.replace("SHA", manifest_sha256(pack)))
    before, after = run(pack)
    assert before == []
    assert json.loads(saved.read_text())["experts"] == [list(e) for e in sorted(after)]


def test_an_unwritable_place_is_a_debug_message(pack, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.DEBUG, logger="adapmoe"):
        run(pack)
    records = [r for r in caplog.records if "is not kept" in r.message]
    assert [r.levelno for r in records] == [logging.DEBUG]


@pytest.mark.parametrize("home", [None, "relative", "/proc"])
@pytest.mark.parametrize(
    "words",
    [
        ["run", "-p", "The", "-n", "2", "--max-context", "64", "--no-exact"],
        ["plan", "--seconds", "1", "--memory", "1GiB"],
        ["doctor"],
    ],
    ids=lambda words: words[0],
)
def test_without_a_home_everything_goes_on(pack, tmp_path, monkeypatch, home, words):
    monkeypatch.chdir(tmp_path)
    leave_home(monkeypatch, home)
    verb, *options = words
    done = CliRunner().invoke(app, [verb, str(pack), *options])
    assert done.exit_code == 0, (done.stderr, done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_home(pack, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    tmp_path.chmod(0o500)
    run(pack)
    assert list(tmp_path.iterdir()) == []


PROGRAM = f"""
import sys
from adapmoe import LLM, SamplingParams
for _ in range(6):
    with LLM(sys.argv[1], experts_resident=0.5, max_context=128) as llm:
        llm.generate({PROMPT!r}, SamplingParams(max_tokens=2))
"""


def test_two_processes_leave_a_whole_file(pack, saved):
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, pack], stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    assert json.loads(saved.read_text())["experts"]
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_closing_in_another_thread_meanwhile_is_no_error(pack, cache):
    llm = LLM(pack, **OPTIONS)
    core = llm._session
    llm.close()
    WarmRestart(llm.path).save(core)
