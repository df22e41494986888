# SPDX-License-Identifier: Apache-2.0
"""`adapmoe chat`: talk to a model."""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from adapmoe.cli.failures import RUNTIME_ERROR, as_one_line, one_line, usage_errors
from adapmoe.cli.options import PROMPT, PackArgument, with_options
from adapmoe.cli.output import make_report, print_statistics
from adapmoe.cli.streams import decoded, reading_stdin
from adapmoe.conversation import Conversation
from adapmoe.errors import AdapmoeError
from adapmoe.generation.params import SamplingParams
from adapmoe.llm import LLM
from adapmoe.machine.files import read_text
from adapmoe.settings import Settings

HELP = """\
/system TEXT  set the system message, or remove it without TEXT
/reset        begin a new conversation
/stats        what the last answer cost
/help         this list
/exit         leave, as Ctrl-D does
Ctrl-C        stop the answer"""


class ChatLoop:
    """One conversation on stdin and stdout. On a terminal with a prompt and line editing."""

    def __init__(self, llm: LLM, conversation: Conversation, params: SamplingParams) -> None:
        """`params`: for every answer."""
        self._llm = llm
        self._conversation = conversation
        self._params = params
        self._terminal = sys.stdin.isatty()
        self._all_answered = True
        self._commands: dict[str, Callable[[str], None]] = {
            "/system": self._set_system,
            "/reset": self._reset,
            "/stats": self._print_statistics,
            "/help": lambda _: _say(HELP),
        }

    def run(self) -> bool:
        """Read until the end of the input or /exit. False if a script's line was in vain."""
        if self._terminal:
            import readline  # noqa: F401 - gives input() editing and history

            _say("/help lists the commands, Ctrl-D leaves")
        while (line := self._read_line()) is not None:
            try:
                decoded("the line", line)
            except ValueError as error:
                self._fail(str(error))
                continue
            word, _, rest = line.strip().partition(" ")
            if word == "/exit":
                break
            if word in self._commands:
                self._commands[word](rest.strip())
            elif word.startswith("/"):
                _say(f"{one_line(word)} is not a command; /help lists them")
                self._all_answered = False
            elif word:
                self._answer(line)
        return self._all_answered or self._terminal

    def _read_line(self) -> str | None:
        """The next line without its end; None at the end of the input."""
        while True:
            try:
                if self._terminal and sys.stdout.isatty():
                    return input("> ")
                # Not so elsewhere: while input() flushes the prompt, it drops a Ctrl-C.
                if self._terminal:
                    print("> ", end="", flush=True)
                with reading_stdin():
                    line = sys.stdin.readline()
                return line.rstrip("\n") if line else None
            except KeyboardInterrupt:
                if not self._terminal:
                    raise
                _say("\nCtrl-D leaves")
            except EOFError:
                typer.echo()
                return None

    def _answer(self, text: str) -> None:
        """Print the answer as it comes; what goes wrong ends it, but not the conversation."""
        try:
            with closing(self._conversation.ask(text, self._params)) as chunks:
                for chunk in chunks:
                    print(chunk.text, end="", flush=True)
            print(flush=True)
            self._warn_when_full()
        except KeyboardInterrupt:
            print(flush=True)
            _say("stopped")
        except (AdapmoeError, ValueError) as error:
            self._fail(as_one_line(error))

    def _fail(self, message: str) -> None:
        _say(f"error: {message}")
        self._all_answered = False

    def _warn_when_full(self) -> None:
        if self._conversation.context_full:
            _say(
                f"the context of {self._llm.max_context} tokens is full: /reset begins a new "
                "conversation; a larger --max-context makes room for longer ones"
            )

    def _set_system(self, text: str) -> None:
        self._conversation.system = text or None
        _say("system message set" if text else "system message removed")

    def _reset(self, _: str) -> None:
        self._conversation.reset()
        _say("new conversation")

    def _print_statistics(self, _: str) -> None:
        if self._conversation.last is None:
            _say("nothing has been answered yet")
        else:
            print_statistics(make_report(self._llm, self._conversation.last))


def _say(text: str) -> None:
    """To stderr: stdout is for answers."""
    typer.echo(text, err=True)


SystemOption = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="What the system message says.", rich_help_panel=PROMPT),
]
ChatTemplateOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="A file with a Jinja chat template, instead of the pack's.",
        rich_help_panel=PROMPT,
    ),
]


@with_options(without=("logprobs", "timeline"))
def chat(
    pack: PackArgument,
    *,
    system: SystemOption = None,
    chat_template: ChatTemplateOption = None,
    sampling: SamplingParams,
    settings: Settings,
) -> None:
    """Talk to a model. Every line is a message; answers go to stdout, all else to stderr.

    Ctrl-C stops an answer, Ctrl-D or /exit leaves, /help lists what else there is.

    Examples:
      adapmoe chat mixtral-instruct.adapmoe --memory 12GiB --system "Answer briefly."
      printf 'Hello\\nAnd in French?\\n' | adapmoe chat mixtral-instruct.adapmoe -n 100
    """
    with usage_errors():
        template = None if chat_template is None else read_text(chat_template)
        llm = LLM(pack, **vars(settings))
    with llm:
        with usage_errors():
            sampling.check_vocabulary(llm.vocab_size)
            conversation = Conversation(llm, system=system, chat_template=template)
        with conversation:
            all_answered = ChatLoop(llm, conversation, sampling).run()
    if not all_answered:
        raise typer.Exit(RUNTIME_ERROR)
