# SPDX-License-Identifier: Apache-2.0
"""Whatever is typed ends with an exit code and a message, never with a traceback."""

import pytest
from typer.testing import CliRunner

from adapmoe.cli.main import _VERBS, _load, app
from adapmoe.cli.options import _TABLES

DERIVED = {name for table in _TABLES.values() for name in table}
WORDS = ("", "nan", "-inf", "-1", "9" * 30, "9" * 5000, "1e999", "[/x]", "a\0b", "\udcff", "/", "x")
PATHS = ("", "/", "/dev/full", "/dev/null/x", "/proc/self/mem", "n" * 300, "[/x]", "a\0b", "\udcff")


def options_of(verb):
    """[option] of a verb; those of settings and sampling are tried with `run` alone."""
    for parameter in _load(verb).params:
        own = verb == "run" or parameter.name not in DERIVED
        if own and parameter.param_type_name == "option" and not parameter.is_flag:
            yield parameter.opts[0]


def arguments_of(verb, checkpoint, pack):
    """What the verb needs to come to the option under test; only `run` gets far."""
    needed = {
        "export": [checkpoint, "/dev/null/out"],
        "replay": ["none.npz"],
        "run": [pack, "-p", "a", "-n", "2", "--no-verbose"],
        "eval": ["none", "--text", checkpoint / "PROVENANCE.md"],
        "calibrate": ["none", "--text", checkpoint / "PROVENANCE.md"],
    }
    return [verb, *map(str, needed.get(verb, ["none"]))]


def check(words):
    done = CliRunner().invoke(app, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
    assert done.exit_code in (0, 1, 2), words
    assert "Traceback" not in done.stderr, words
    assert "a bug in adapmoe" not in done.stderr, (words, done.stderr)
    if done.exit_code:
        assert "rror: " in done.stderr, (words, done.stderr)
    return done


OPTIONS = [(verb, option) for verb in _VERBS for option in options_of(verb)]


@pytest.mark.parametrize(("verb", "option"), OPTIONS, ids=lambda part: part)
def test_any_value_of_an_option(verb, option, pack_factory, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("adapmoe.machine.files.MOST_TEXT_BYTES", 1 << 16)  # /dev/full has no end
    for word in (*WORDS, *PATHS):
        check([*arguments_of(verb, tiny_checkpoint, pack_factory()), option, word])
