# SPDX-License-Identifier: Apache-2.0
"""Which reader a session takes, and that it says so when it is not the one asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adapmoe import LLM, SamplingParams
from adapmoe.pack.manifest import Manifest

FORBID = Path(__file__).resolve().parents[1] / "support" / "machine" / "forbid_io_uring.py"


def about_reading(notes):
    return [note for note in notes if "io_uring" in note]


def opened(pack, **options):
    with LLM(pack, max_context=64, **options) as llm:
        return llm.reader, about_reading(llm._session.notes)


def test_pread_is_always_there(pack_factory):
    assert opened(pack_factory(), reader="pread") == ("pread", [])


def test_auto_is_io_uring_where_it_may_be_used(pack_factory):
    by_name, notes = opened(pack_factory(), reader="io_uring")
    assert opened(pack_factory(), reader="auto")[0] == by_name
    assert len(notes) == (by_name != "io_uring")


def test_the_page_cache_is_for_pread(pack_factory):
    reader, notes = opened(pack_factory(), reader="io_uring", direct_io=False)
    assert reader == "pread"
    assert len(notes) == 1
    assert "reading with pread" in notes[0]


def in_subprocess(script, *words):
    done = subprocess.run(
        [sys.executable, str(script), *map(str, words)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def plain(pack_factory):
    """The pack, and what it says without anything registered."""
    with LLM(pack_factory(), max_context=64, reader="io_uring") as llm:
        if llm.reader != "io_uring":
            pytest.skip("io_uring cannot be used here")
        assert llm.registration == (False, 0, "")
        return pack_factory(), llm.generate("The", SamplingParams(max_tokens=2)).text


def test_registering_changes_no_token(plain):
    pack, text = plain
    with LLM(pack, max_context=64, reader="io_uring", register_buffers=True) as llm:
        assert llm.generate("The", SamplingParams(max_tokens=2)).text == text
        file, tiles, problem = llm.registration
    assert file
    assert tiles > 0 or problem


def test_a_kernel_that_refuses_to_register(plain):
    pack, text = plain
    seen = in_subprocess(FORBID, pack, "io_uring", "--registering")
    assert (seen["reader"], seen["text"]) == ("io_uring", text)
    file, tiles, problem = seen["registration"]
    assert (file, tiles) == (False, 0)
    assert "Operation not permitted" in problem


def test_no_more_is_registered_than_may_be_locked(plain):
    pack, text = plain
    tile = Manifest.read(pack).experts.tile_bytes
    seen = in_subprocess(FORBID.with_name("limit_memlock.py"), pack, 5 * tile)
    assert (seen["reader"], seen["text"]) == ("io_uring", text)
    file, tiles, problem = seen["registration"]
    assert file
    assert tiles <= 5
    assert "Cannot allocate memory; RLIMIT_MEMLOCK is" in problem


@pytest.mark.parametrize("reader", ["io_uring", "auto"])
def test_a_container_that_forbids_io_uring(pack_factory, reader):
    done = subprocess.run(
        [sys.executable, str(FORBID), str(pack_factory()), reader],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["reader"] == "pread"
    notes = about_reading(seen["notes"])
    assert len(notes) == (reader == "io_uring")
    if notes and "not built in" not in notes[0]:
        assert "io_uring_setup: Operation not permitted; reading with pread" in notes[0]
