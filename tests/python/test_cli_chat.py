# SPDX-License-Identifier: Apache-2.0
import io
import json

import pytest
from typer.testing import CliRunner

import adapmoe
from adapmoe.cli import chat as chat_loop
from adapmoe.cli.main import app
from adapmoe.conversation import Conversation

WORDS = ("-n", "6", "--temperature", "1", "--seed", "3")
PARAMS = adapmoe.SamplingParams(max_tokens=6, temperature=1.0, seed=3)


@pytest.fixture
def chat(fake_core, tiny_checkpoint):
    """Run `adapmoe chat` on the fake model with these lines on stdin."""

    def call(lines, *options, **settings):
        fake_core(**settings)
        words = ["chat", str(tiny_checkpoint), *WORDS, *map(str, options)]
        return CliRunner().invoke(app, words, input="".join(f"{line}\n" for line in lines))

    return call


@pytest.fixture
def expected(open_llm):
    """What the answers are, one line each."""

    def answers(*questions, system=None):
        with Conversation(open_llm(), system=system) as conversation:
            texts = ["".join(c.text for c in conversation.ask(q, PARAMS)) for q in questions]
        return "".join(f"{text}\n" for text in texts)

    return answers


def test_every_line_is_answered_on_stdout(chat, expected):
    done = chat(["Hello", "", "And now?"])
    assert done.exit_code == 0
    assert done.stdout == expected("Hello", "And now?")
    assert "dense weights" in done.stderr


def test_the_system_message_comes_by_option_or_command(chat, expected):
    wanted = expected("Hello", system="Be brief.")
    assert chat(["Hello"], "--system", "Be brief.").stdout == wanted
    done = chat(["/system Be brief.", "Hello"])
    assert done.stdout == wanted
    assert "system message set" in done.stderr
    done = chat(["/system", "Hello"], "--system", "Be brief.")
    assert done.stdout == expected("Hello")
    assert wanted != expected("Hello")


def test_reset_begins_anew_and_exit_leaves(chat, expected):
    done = chat(["Hello", "/reset", "Hello", "/exit", "Hello"])
    assert done.exit_code == 0
    assert done.stdout == expected("Hello") * 2


def test_statistics_and_help_go_to_stderr(chat, expected):
    done = chat(["/stats", "/help", "Hello", "And now?", "/stats"])
    assert done.stdout == expected("Hello", "And now?")
    assert "nothing has been answered yet" in done.stderr
    assert "/reset" in done.stderr
    assert "from the KV" in done.stderr


def test_an_unknown_command_is_named_and_a_script_fails(chat, expected):
    done = chat(["/nonsense x", "Hello"])
    assert done.exit_code == 1
    assert done.stdout == expected("Hello")
    assert "/nonsense is not a command; /help" in done.stderr


def test_a_full_context_says_how_to_go_on(chat):
    done = chat(["Hello", "word " * 100, "/reset", "Hello"], "--max-context", "40", "-n", "99")
    assert done.exit_code == 1
    assert "context of 40 tokens is full: /reset begins" in done.stderr
    assert "error: the conversation would have" in done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert "Traceback" not in done.stderr


def test_an_interrupt_stops_the_answer_and_not_the_program(chat, monkeypatch):
    session = []
    original = chat_loop.ChatLoop._answer

    def resume(self, text):
        original(self, text)
        session.append(self._llm._session.interrupt_after)
        self._llm._session.interrupt_after = None

    monkeypatch.setattr(chat_loop.ChatLoop, "_answer", resume)
    done = chat(["Hello", "And now?"], "-n", "50", interrupt_after=3)
    assert done.exit_code == 0
    assert session == [0, None]
    assert "stopped" in done.stderr
    assert len(done.stdout.splitlines()) >= 2


def test_a_template_of_ones_own(chat, tmp_path, open_llm):
    path = tmp_path / "template.jinja"
    path.write_text("{{ messages[-1].content }}")
    done = chat(["The first"], "--chat-template", path)
    ids = open_llm().tokenizer.encode("The first", add_bos=False)
    assert done.stdout == open_llm().generate(ids, PARAMS).text + "\n"


def test_a_pack_without_a_template_is_refused_at_once(chat, monkeypatch, tmp_path):
    monkeypatch.setattr("adapmoe.text.chat_template._templates", lambda *_: {})
    done = chat(["Hello"])
    assert done.exit_code == 1
    assert "--chat-template" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "options", [("--min-p", "2"), ("--repetition-penalty", "0"), ("--chat-template", "missing")]
)
def test_wrong_usage_is_exit_code_2(chat, options):
    done = chat(["Hello"], *options)
    assert done.exit_code == 2
    assert done.stdout == ""


class Terminal:
    """Stands for input() on a terminal: lines, or exceptions for Ctrl-C and Ctrl-D."""

    def __init__(self, *lines):
        self.lines = list(lines)

    def __call__(self, prompt):
        assert prompt == "> "
        line = self.lines.pop(0)
        if isinstance(line, str):
            return line
        raise line


def test_on_a_terminal_ctrl_c_at_the_prompt_goes_on_and_ctrl_d_leaves(
    open_llm, monkeypatch, capsys, expected
):
    wanted = expected("Hello")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        "builtins.input", Terminal(KeyboardInterrupt, "Hello", "/nonsense", EOFError)
    )
    llm = open_llm()
    capsys.readouterr()
    with Conversation(llm) as conversation:
        assert chat_loop.ChatLoop(llm, conversation, PARAMS).run()
    shown = capsys.readouterr()
    assert shown.out == wanted + "\n"
    assert shown.err.count("Ctrl-D leaves") == 2


class Interrupted(io.StringIO):
    """Stands for a stdout that is no terminal; Ctrl-C comes while the first prompt is written."""

    interrupts = 1

    def flush(self):
        super().flush()
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt


def test_a_ctrl_c_while_the_prompt_is_written_is_not_lost(open_llm, monkeypatch, capsys):
    llm = open_llm()
    keyboard, shown = io.StringIO("/exit\n"), Interrupted()
    keyboard.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", keyboard)
    with Conversation(llm) as conversation:
        loop = chat_loop.ChatLoop(llm, conversation, PARAMS)
        monkeypatch.setattr("sys.stdout", shown)
        assert loop.run()
    assert shown.getvalue() == "> > "
    assert capsys.readouterr().err.count("Ctrl-D leaves") == 2


def test_run_takes_the_new_sampling_options(fake_core, tiny_checkpoint):
    words = ["run", str(tiny_checkpoint), "-p", "The first", "-n", "20", "--json"]

    def report(*more):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    plain = report()
    assert "logprobs" not in plain
    found = report("--logprobs", "2")
    assert found["token_ids"] == plain["token_ids"]
    assert [t["token_id"] for t in found["logprobs"]] == plain["token_ids"]
    assert all(t["top"][0]["logprob"] == t["logprob"] <= 0 for t in found["logprobs"])
    sampled = ("--temperature", "1", "--seed", "1")
    assert report(*sampled, "--min-p", "1")["token_ids"] == plain["token_ids"]
    for penalty in ("--repetition-penalty", "--presence-penalty", "--frequency-penalty"):
        tokens = report(penalty, "9")["token_ids"]
        assert len(set(tokens)) == len(tokens)
