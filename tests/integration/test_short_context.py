# SPDX-License-Identifier: Apache-2.0
"""Every verb with models that were trained for few positions: it works, or says what to change."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from adapmoe.cli.main import app
from support.packs.manifest_edit import edit_manifest

TEXT = "A function that returns the number of items in the list, or None if it is empty. " * 80


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def pack_of(pack_factory, tmp_path):
    """The tiny model, as if it had been trained for so many positions."""

    def make(positions):
        pack = tmp_path / "short.adapmoe"
        shutil.copytree(pack_factory(), pack)
        edit_manifest(pack, lambda m: m["config"].update(max_position_embeddings=positions))
        return str(pack)

    return make


def call(*words):
    return CliRunner().invoke(app, list(words))


def verb_words(verb, pack, text):
    return {
        "run": ["run", pack, "-p", "The", "--ignore-eos", "--json"],
        "plan": ["plan", pack, "--seconds", "4", "--memory", "1GiB", "--check", "--json"],
        "eval": ["eval", pack, "--text", text, "--json"],
        "calibrate": ["calibrate", pack, "--text", text, "--windows", "8", "--json"],
        "bench": ["bench", pack, "--repeat", "1", "--profile", "--json"],
    }[verb]


VERBS = [
    "run",
    "eval",
    *(pytest.param(verb, marks=pytest.mark.slow) for verb in ("plan", "calibrate", "bench")),
]


@pytest.mark.parametrize("positions", [8, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("verb", VERBS)
def test_a_short_context_is_lived_with(pack_of, text, verb, positions):
    done = call(*verb_words(verb, pack_of(positions), text))
    assert done.exit_code == 0, (done.stderr, done.exception)
    found = json.loads(done.stdout)
    assert "NaN" not in done.stdout
    if verb == "plan":
        assert len(found["check"]) == 3
        assert 0 < found["at_memory"]["low"] <= found["at_memory"]["high"]
    if verb == "calibrate":
        assert found["provenance"]["window_tokens"] == positions
    if verb == "bench":
        assert 0.75 * positions <= sum(found["workload"].values()) <= positions


@pytest.mark.parametrize(
    ("verb", "words", "named"),
    [
        ("eval", ["--window", "9"], "window"),
        ("bench", ["--tokens", "9"], "--tokens 9"),
        ("bench", ["--prompt-tokens", "4", "--warmup", "4"], "--warmup 4"),
        ("run", ["-n", "9"], "--max-tokens 9"),
        ("run", ["--max-context", "9"], "--max-context 9"),
    ],
)
def test_what_does_not_fit_is_named(pack_of, text, verb, words, named):
    done = call(*verb_words(verb, pack_of(8), text), *words)
    assert done.exit_code != 0
    assert named in done.stderr
    assert "8" in done.stderr
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("verb", VERBS)
def test_one_position_is_refused_in_words(pack_of, text, verb):
    """A prompt of one token fills it: nothing can be generated or predicted."""
    done = call(*verb_words(verb, pack_of(1), text))
    assert done.exit_code != 0
    assert isinstance(done.exception, SystemExit), done.exception
    assert any(word in done.stderr for word in ("position", "--max-context 1", "trained for 1"))


@pytest.mark.parametrize("verb", ["plan", "eval", "calibrate", "bench"])
def test_two_positions_are_enough(pack_of, text, verb):
    done = call(*verb_words(verb, pack_of(2), text))
    assert done.exit_code == 0, (done.stderr, done.exception)
