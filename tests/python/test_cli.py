# SPDX-License-Identifier: Apache-2.0
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

import adapmoe
from adapmoe.cli.main import app

REPORT_KEYS = {
    "text",
    "token_ids",
    "prompt_tokens",
    "generated_tokens",
    "finish_reason",
    "stats",
}
STATS_KEYS = {
    "decode_tokens_per_s",
    "prefill_tokens_per_s",
    "hit_rate",
    "bytes_read",
    "stall_s",
    "compute_s",
    "peak_rss_bytes",
    "experts_used",
    "memory",
}


@pytest.fixture
def cli(fake_core, tiny_checkpoint):
    """Run a verb on the fake model; PACK stands for its path."""

    def call(*arguments, stdin=None, **settings):
        fake_core(**settings)
        words = [str(tiny_checkpoint) if word == "PACK" else str(word) for word in arguments]
        return CliRunner().invoke(app, words, input=stdin)

    return call


def test_run_streams_the_text_to_stdout_and_the_rest_to_stderr(cli, open_llm):
    done = cli("run", "PACK", "-p", "The first", "-n", "6")
    assert done.exit_code == 0
    expected = open_llm().generate("The first", adapmoe.SamplingParams(max_tokens=6))
    assert done.stdout == expected.text
    for words in ("dense weights", "statistics", "6 tokens", "50.0% found resident", "peak memory"):
        assert words in done.stderr


def test_run_json_prints_one_object(cli):
    done = cli("run", "PACK", "-p", "The first", "-n", "6", "--memory", "2GiB", "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert set(report) == REPORT_KEYS
    assert set(report["stats"]) >= STATS_KEYS
    assert report["generated_tokens"] == len(report["token_ids"]) == 6
    assert report["finish_reason"] == "length"
    assert report["stats"]["memory"]["memory_bytes"] == 2**31
    assert report["stats"]["peak_rss_bytes"] > 2**20


def test_run_takes_the_prompt_from_a_file_or_stdin(cli, tmp_path):
    (tmp_path / "prompt.txt").write_text("The first")
    expected = cli("run", "PACK", "-p", "The first", "-n", "4").stdout
    by_file = cli("run", "PACK", "--prompt-file", tmp_path / "prompt.txt", "-n", "4")
    by_stdin = cli("run", "PACK", "-p", "-", "-n", "4", stdin="The first")
    assert by_file.stdout == by_stdin.stdout == expected != ""


def test_run_passes_sampling_on(cli):
    words = ("run", "PACK", "-p", "a", "-n", "8", "--temperature", "1", "--top-k", "50", "--json")

    def ids(*more):
        return json.loads(cli(*words, *more).stdout)["token_ids"]

    assert ids("--seed", "1", "--top-p", "0.9") == ids("--seed", "1", "--top-p", "0.9")
    assert ids("--seed", "1") != ids("--seed", "2")
    text = json.loads(cli(*words, "--seed", "1").stdout)["text"]
    cut = json.loads(cli(*words, "--seed", "1", "--stop", text[3:5], "--stop", "zzz").stdout)
    assert cut["text"] == text[: text.index(text[3:5])]
    assert cut["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "words",
    [
        ("run", "PACK"),
        ("run", "PACK", "-p", "a", "--prompt-file", "PACK/config.json"),
        ("run", "PACK", "-p", "a", "--prompt-file", "missing.txt"),
        ("run", "PACK", "-p", "a", "--memory", "12 parsecs"),
        ("run", "PACK", "-p", "a", "--experts-resident", "half"),
        ("run", "PACK", "-p", "a", "--experts-resident", "50%", "--memory", "1GiB"),
        ("run", "PACK", "-p", "a", "--top-p", "7"),
        ("run", "PACK", "-p", "a", "-n", "0"),
        ("run", "PACK", "-p", "a", "--nonsense"),
        ("eval", "PACK"),
        ("eval", "PACK", "--text", "missing.txt"),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_exit_code_2(cli, tiny_checkpoint, words):
    done = cli(*[word.replace("PACK/", f"{tiny_checkpoint}/") for word in words])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "rror" in done.stderr


def test_a_typed_error_is_one_line_and_exit_code_1(cli):
    done = cli("run", "PACK", "-p", "a", "-n", "9999")
    assert done.exit_code == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "--max-context 512; lower --max-tokens" in last
    assert "Traceback" not in done.stderr


def test_a_pack_that_does_not_open_is_exit_code_1(monkeypatch, tmp_path):
    def refuse(path, **options):
        raise adapmoe.PackError(f"{path}: manifest.json is missing")

    monkeypatch.setattr("adapmoe.llm.open_core_session", refuse)
    done = CliRunner().invoke(app, ["run", str(tmp_path), "-p", "a"])
    assert (done.exit_code, done.stderr) == (1, f"error: {tmp_path}: manifest.json is missing\n")


def test_an_interrupt_keeps_the_text_and_prints_the_statistics(cli, open_llm):
    expected = open_llm().generate("The first", adapmoe.SamplingParams(max_tokens=3)).text
    done = cli("run", "PACK", "-p", "The first", interrupt_after=3)
    assert done.exit_code == 130
    assert expected.startswith(done.stdout)
    assert done.stdout
    assert "3 tokens" in done.stderr
    assert "interrupt" in done.stderr


def test_an_interrupted_json_run_still_prints_its_object(cli):
    done = cli("run", "PACK", "-p", "The first", "--json", interrupt_after=3)
    assert done.exit_code == 130
    report = json.loads(done.stdout)
    assert report["finish_reason"] is None
    assert report["generated_tokens"] == 3


def test_an_interrupt_during_eval_is_130(cli, tiny_checkpoint):
    done = cli("eval", "PACK", "--text", tiny_checkpoint / "PROVENANCE.md", interrupt_after=0)
    assert done.exit_code == 130
    assert done.stdout == ""


def test_eval_prints_perplexity(cli, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The first line of the text. " * 20)
    done = cli("eval", "PACK", "--text", path, "--window", "32", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert set(found) == {"perplexity", "nll", "tokens"}
    plain = cli("eval", "PACK", "--text", path, "--window", "32")
    assert plain.stdout.split() == [
        "perplexity",
        f"{found['perplexity']:.4f}",
        "nll",
        f"{found['nll']:.6f}",
        "tokens",
        str(found["tokens"]),
    ]
    assert "windows" in plain.stderr


def test_eval_of_a_text_that_is_not_utf8_is_wrong_usage(cli, tmp_path):
    (tmp_path / "text.txt").write_bytes(b"\xff\xfe")
    assert cli("eval", "PACK", "--text", tmp_path / "text.txt").exit_code == 2


def test_help_of_every_verb_teaches_with_examples(cli):
    overview = cli("--help")
    assert overview.exit_code == 0
    for verb in ("run", "eval", "inspect", "export"):
        assert verb in overview.stdout
    for verb in ("run", "eval"):
        assert f"adapmoe {verb} mixtral.adapmoe" in cli(verb, "--help").stdout
    assert cli().exit_code == 2
    assert cli("--version").stdout.strip() == adapmoe.__version__


def test_export_without_its_extra_says_what_to_install(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "adapmoe_export", None)
    monkeypatch.setitem(sys.modules, "adapmoe_export.cli", None)
    done = cli("export", "CHECKPOINT", "OUT", "--experts", "int4")
    assert done.exit_code == 2
    assert "pip install 'adapmoe[export]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("verb", "module"), [("export", "adapmoe_export.cli"), ("inspect", "adapmoe.cli.inspect")]
)
def test_the_module_of_a_verb_is_imported_when_it_is_used(cli, monkeypatch, verb, module):
    def command(source: str, out: str = "", fast: bool = False) -> None:
        """Say what came in."""
        if source == "bad":
            raise adapmoe.PackError("bad pack")
        typer.echo(f"{source} {out} {fast}")

    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{verb: command}))
    assert cli(verb, "A", "--out", "B", "--fast").stdout == "A B True\n"
    assert cli(verb, "--fast", "A").stdout == "A  True\n"
    assert "Say what came in" in cli(verb, "--help").stdout
    assert f"{verb} [OPTIONS]" in cli(verb, "--help").stdout
    assert cli(verb, "A", "--unknown").exit_code == 2
    failed = cli(verb, "bad")
    assert (failed.exit_code, failed.stderr) == (1, "error: bad pack\n")


PIPE = """
import functools, sys
import adapmoe.llm
from support.core.fake_session import FakeSession
adapmoe.llm.open_core_session = functools.partial(FakeSession)
from adapmoe.cli import start
start()
"""


def test_a_reader_that_leaves_ends_the_run_quietly(tiny_checkpoint):
    tests = tiny_checkpoint.parents[1]
    packages = [str(tests), *filter(None, sys.path)]
    process = subprocess.Popen(
        [sys.executable, "-c", PIPE, "run", str(tiny_checkpoint), "-p", "a", "-n", "200"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(packages)},
    )
    with process:
        assert isinstance(process.stdout, io.BufferedReader)
        process.stdout.close()
        errors = process.stderr.read().decode()
    assert process.returncode == 1
    assert "BrokenPipe" not in errors
    assert "Traceback" not in errors
