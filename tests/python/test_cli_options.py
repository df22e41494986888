# SPDX-License-Identifier: Apache-2.0
"""Options are those of the settings; help is short; nothing is imported before it is needed."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import adapmoe
from adapmoe.cli import failures
from adapmoe.cli.main import _VERBS, _load, app
from adapmoe.cli.names import as_typed, option_name
from adapmoe.settings import Settings

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    "COLUMNS": "100",
}


@pytest.fixture
def opened(monkeypatch):
    """Settings that verbs open packs with; none is opened."""
    seen = []

    def refuse(self, path, settings):
        seen.append(settings)
        raise adapmoe.PackError("not opened")

    def init(self, path, **settings):
        refuse(self, path, Settings(**settings))

    monkeypatch.setattr(adapmoe.LLM, "__init__", init)
    return seen


def other_value(field):
    """Another value than the default, as typed and as it should arrive."""
    typed = {
        "memory": ("3GiB", "3GiB"),
        "experts_resident": ("50%", "50%"),
        "threads": ("3", 3),
        "gating_threshold": ("0.5", 0.5),
        "sensitivity": ("0.5", [0.5]),
        "read_depth": ("7", 7),
        "request_bytes": ("8192", 8192),
        "prefetch": ("3", 3),
    }
    if field.name in typed:
        return typed[field.name]
    known = getattr(field.metadata["check"], "keywords", {}).get("known")
    if known:
        return known[-1], known[-1]
    return str(field.default + 1), field.default + 1


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_run_reaches_every_setting(opened, field, tmp_path):
    words = ["run", "PACK", "-p", "a"]
    if field.name == "timeline":
        words, expected = [*words, "--timeline", str(tmp_path / "x")], True
    elif isinstance(field.default, bool):
        expected = field.name != "verbose" and not field.default
        option = option_name(field.name)
        words.append(option if expected else f"--no-{option[2:]}")
    else:
        typed, expected = other_value(field)
        words += [option_name(field.name), typed]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert getattr(opened[0], field.name) == expected
    plain = {**vars(Settings(verbose=True)), field.name: expected}
    assert vars(opened[0]) == plain


def test_settings_help_fits_a_line_and_names_every_choice():
    for field in dataclasses.fields(Settings):
        text = field.metadata["help"]
        assert field.name == "memory" or len(text) <= 70, field.name
        for choice in getattr(field.metadata["check"], "keywords", {}).get("known", ()):
            assert choice in text, field.name


def test_help_of_run_fits_a_screen_and_a_half():
    command = [sys.executable, "-m", "adapmoe.cli.main", "run", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT).stdout
    lines = shown.splitlines()
    assert len(lines) <= 67
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert [line.split(" (")[0].rstrip(":") for line in headings] == [
        "Examples",
        "Arguments",
        "Prompt and sampling",
        "Memory",
        "Output",
        "Advanced",
    ]
    advanced = lines[lines.index(headings[-1]) + 1 :]
    assert all(line.startswith("  --") for line in advanced)  # one line each


@pytest.mark.parametrize("words", [[], ["--help"], ["run"]], ids=str)
def test_the_first_help_teaches_by_examples(words):
    done = CliRunner().invoke(app, words)
    shown = done.stdout + done.stderr
    assert done.exit_code == (0 if words == ["--help"] else 2)
    assert "adapmoe run mixtral.adapmoe -p" in shown
    options = {word for word in shown.replace("`", " ").split() if word.startswith("-")} - {"-"}
    assert 2 <= len(options) <= 5, options


@pytest.mark.parametrize("verb", _VERBS)
def test_every_verb_has_examples_and_no_odd_names(verb):
    shown = CliRunner().invoke(app, [verb, "--help"]).stdout
    assert f"adapmoe {verb} " in shown
    assert not re.search(r"<[a-z]|\{|INTEGER|range$|\[/", shown)
    for parameter in _load(verb).params:
        assert all("_" not in option for option in parameter.opts if option.startswith("-"))


def imported_by(words):
    script = (
        "import sys; sys.argv = ['adapmoe', *sys.argv[1:]]\n"
        "from adapmoe.cli import start\n"
        "try: start()\n"
        "except SystemExit: print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    return set(done.stderr.splitlines())


@pytest.mark.parametrize("words", [["--help"], ["--version"]], ids=str)
def test_help_and_version_import_nothing_that_takes_long(words):
    found = imported_by(words)
    assert "typer" in found
    heavy = {"numpy", "rich", "jinja2", "tokenizers", "msgspec", "asyncio", "adapmoe._core"}
    assert not found & heavy
    assert {name for name in found if name.startswith("adapmoe.cli.")} == {
        f"adapmoe.cli.{name}" for name in ("failures", "main", "streams", "verb")
    }
    assert {name for name in found if name.startswith("adapmoe.")} - {
        name for name in found if name.startswith("adapmoe.cli")
    } == {"adapmoe.errors"}


def test_the_package_offers_all_it_names():
    for name in adapmoe.__all__:
        assert getattr(adapmoe, name) is not None
    assert set(adapmoe.__all__) <= set(dir(adapmoe))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = adapmoe.nonsense


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("threads must be from 1 to 1024, not 0", "--threads must be from 1 to 1024, not 0"),
        ("stop[0] must be a string", "--stop[0] must be a string"),
        ("stop_token_ids: token id 9", "--stop-id: token id 9"),
        ('layer 3: infinite; kv_dtype="f32" helps', "layer 3: infinite; --kv-dtype f32 helps"),
        ("w4a16 needs exact=False", "w4a16 needs --no-exact"),
        ("raise max_context.", "raise --max-context."),
        ("/tmp/max_context/read_depth.x: missing", "/tmp/max_context/read_depth.x: missing"),
        ("the memory of a device", "the memory of a device"),
    ],
)
def test_messages_name_options_as_they_are_typed(message, typed):
    assert as_typed(message) == typed


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (adapmoe.PackError("a\x1b[7m\nb"), "error: a\\x1b[7m\nb\n"),
        (OSError(13, "Permission denied", "x"), "error: x: Permission denied\n"),
        (MemoryError(), "error: out of memory\n"),
        (RecursionError("deep"), "error: nested too deeply: deep\n"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "no"), "error: text that cannot be"),
        (ModuleNotFoundError("No module named 'adapmoe._core'"), "error: this installation is"),
        (ZeroDivisionError("division by zero"), "error: a bug in adapmoe: ZeroDivisionError"),
        (BrokenPipeError(32, "Broken pipe", "standard output"), ""),
    ],
    ids=lambda part: type(part).__name__,
)
def test_whatever_goes_wrong_is_a_line(error, shown, capsys, monkeypatch):
    monkeypatch.setattr(failures, "discard", lambda stream: None)
    with pytest.raises(SystemExit) as ended, failures.exit_codes():
        raise error
    assert ended.value.code == 1
    found = capsys.readouterr().err
    assert found.startswith(shown)
    assert bool(found) == bool(shown)
    assert "Traceback" not in found
    monkeypatch.setenv("ADAPMOE_TRACEBACK", "1")
    with pytest.raises(SystemExit), failures.exit_codes():
        raise error
    assert "Traceback" in capsys.readouterr().err
