# SPDX-License-Identifier: Apache-2.0
"""Processes with odd streams, names and surroundings end with an exit code, never a traceback."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

COMMAND = [sys.executable, "-m", "adapmoe.cli"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    "PYTHONUNBUFFERED": "",
}
RUN = ("run", "PACK", "-p", "a", "-n", "2")


@pytest.fixture
def shell(pack_factory):
    """Run `adapmoe WORDS REDIRECTION` in a shell; PACK stands for a pack."""

    def call(words, redirection="", stdin=b"", code=None, **environment):
        shown = [str(pack_factory()) if word == "PACK" else word for word in words]
        start = COMMAND if code is None else [sys.executable, "-c", code]
        line = b"exec " + shlex.join([*start]).encode() + b" "
        line += b" ".join(
            shlex.quote(os.fsdecode(word)).encode("utf-8", "surrogateescape") for word in shown
        )
        done = subprocess.run(
            [b"/bin/sh", b"-c", line + b" " + redirection.encode()],
            input=stdin,
            capture_output=True,
            env={
                **os.environ,
                "PYTHONUNBUFFERED": "",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            }
            | environment,
            timeout=60,
        )
        assert b"Traceback" not in done.stderr, done.stderr
        assert b"Exception ignored" not in done.stderr, done.stderr
        assert b"a bug in" not in done.stderr, done.stderr
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return call


VERBS = [("--help",), ("--version",), RUN, (*RUN, "--json"), ("inspect", "PACK"), ("doctor",)]


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
@pytest.mark.parametrize(
    ("redirection", "why"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
)
def test_an_output_that_cannot_be_written_is_an_error(shell, words, redirection, why):
    unbuffered = "1" if words[0] == "run" else ""  # fails at once, or at the end
    code, _, errors = shell(words, redirection, PYTHONUNBUFFERED=unbuffered)
    assert (code, errors.splitlines()[-1]) == (
        1,
        f"error: standard output: {why}",
    )


@pytest.mark.parametrize("words", [RUN, ("--nonsense",), ("run", "none", "-p", "a")], ids=" ".join)
def test_without_stderr_only_messages_are_lost(shell, words):
    code, text, _ = shell(words)
    closed = shell(words, "2>&-")
    assert closed[:2] == (code, text)
    assert shell(words, "2>/dev/full")[0] in (1, 2)


@pytest.mark.parametrize("words", [("run", "PACK", "-p", "-"), ("chat", "PACK")], ids=" ".join)
def test_an_input_that_cannot_be_read_is_named(shell, words):
    code, text, errors = shell(words, "<&-")
    assert (code, text) == (1, "")
    assert errors.endswith("error: standard input: Bad file descriptor\n")


def test_a_prompt_on_stdin_must_be_text(shell):
    code, text, errors = shell(("run", "PACK", "-p", "-"), stdin=b"abc\xff")
    assert (code, text) == (2, "")
    assert errors == "error: standard input: byte 0xff at 3 is not text\n"


def test_chat_goes_on_after_a_line_that_is_no_text(shell):
    code, text, errors = shell(("chat", "PACK", "-n", "2"), stdin=b"a\xff\n/x\x1b[7m\nHello\n")
    assert code == 1
    assert len(text.splitlines()) >= 1
    assert "error: the line: byte 0xff at 1 is not text\n" in errors
    assert "/x\\x1b[7m is not a command" in errors


@pytest.mark.parametrize("verb", ["run", "inspect", "export", "replay"])
def test_bytes_that_are_no_text_are_refused_wherever_they_stand(shell, verb):
    code, text, errors = shell((verb, os.fsdecode(b"caf\xe9"), "-p", "x"))
    assert (code, text) == (2, "")
    assert r"'caf\udce9' is not UTF-8 text" in errors


ASCII = {"PYTHONIOENCODING", "PYTHONUTF8"}  # stdin does not take UTF-8


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"LANG": "xx_YY.nonsense"},
        {"TERM": "dumb", "COLUMNS": "1"},
        {"COLUMNS": "x"},
        {"XDG_CACHE_HOME": "/dev/null/x"},
    ],
    ids=str,
)
def test_odd_surroundings_change_no_exit_code(shell, environment):
    for words in (("inspect", "PACK"), ("chat", "PACK", "-n", "1")):
        code, text, errors = shell(words, stdin="é\n".encode(), **environment)
        ascii_input = words[0] == "chat" and not {"PYTHONIOENCODING", "PYTHONUTF8"}.isdisjoint(
            environment
        )
        assert code == (1 if ascii_input else 0), errors
        assert text or ascii_input


def test_neither_a_home_nor_a_user(shell):
    nobody = """
import os, pwd
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME"): os.environ.pop(name, None)
from adapmoe.cli import start
start()
"""
    for words in (RUN, ("inspect", "PACK"), ("doctor", "PACK", "--json")):
        code, text, errors = shell(words, code=nobody)
        assert code == 0, errors
        assert text


@pytest.mark.slow
def test_names_with_brackets_are_shown_as_they_are(shell, pack_factory, tmp_path):
    pack = tmp_path / "[bold]a[/x] :smile:"
    shutil.copytree(pack_factory(), pack)
    trace = tmp_path / "[red]t.npz"
    for words in (
        ("inspect", str(pack)),
        ("verify", str(pack)),
        ("run", str(pack), "-p", "a", "-n", "3", "--trace", str(trace)),
        ("run", str(pack / "[/none]"), "-p", "a"),
        ("replay", str(trace / "[/none]")),
    ):
        code, text, errors = shell(words, COLUMNS="300")
        assert ("[/none]" in words[1]) == bool(code), errors
        shown = "".join((text + errors).split())  # the title of a table may be wrapped
        assert "[bold]a[/x]:smile:" in shown or words[0] == "replay"
    assert shell(("replay", str(trace)))[0] == 0


def test_what_is_written_at_the_end_is_tried_at_the_beginning(shell, tmp_path):
    targets = ("/dev/null/x", tmp_path, tmp_path / "none" / "x", "/dev/full")
    for option, target in zip(("--trace", "--timeline") * 2, map(str, targets), strict=True):
        code, text, errors = shell((*RUN, option, target))
        assert (code, text) == (2, "")
        assert f"Invalid value for '{option}': {target}: " in errors
        assert "one token" not in errors  # no model was opened
    shell(("run", "none", "-p", "a", "--trace", str(tmp_path / "new")))
    assert list(tmp_path.iterdir()) == []  # trying leaves nothing behind


INTERRUPTED = """
import sys
class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "typer": raise KeyboardInterrupt
sys.meta_path.insert(0, Impatient())
from adapmoe.cli import start
start()
"""


def test_ctrl_c_while_modules_are_imported(shell):
    assert shell(("--help",), code=INTERRUPTED) == (130, "", "")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", -15)])
def test_signals_end_a_run_without_noise(pack_factory, name, code):
    slow = ["--kernels", "scalar", "--threads", "1", "-n", "400"]
    process = subprocess.Popen(
        [*COMMAND, "run", str(pack_factory()), "-p", "word " * 60, *slow],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout.read(1)  # it runs
        time.sleep(0.1)
        process.send_signal(getattr(signal, name))
        errors = process.stderr.read()
    assert process.returncode == code
    assert b"Traceback" not in errors
