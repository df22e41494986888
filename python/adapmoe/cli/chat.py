# SPDX-License-Identifier: Apache-2.0
"""`adapmoe chat`: talk to a model."""

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from adapmoe.cli.options import (
    BackendOption,
    ExactOption,
    ExpertOptions,
    ExpertPathOption,
    ExpertsResidentOption,
    FrequencyPenaltyOption,
    IgnoreEosOption,
    KernelsOption,
    KvDtypeOption,
    LLMOptions,
    MaxContextOption,
    MaxTokensOption,
    MemoryOption,
    MinPOption,
    PackArgument,
    PolicyOption,
    PresencePenaltyOption,
    RepetitionPenaltyOption,
    SeedOption,
    StopIdOption,
    StopOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    check_stop_ids,
    open_llm,
)
from adapmoe.cli.output import RUNTIME_ERROR, make_report, print_statistics, usage_errors
from adapmoe.conversation import Conversation
from adapmoe.errors import AdapmoeError
from adapmoe.generation.params import SamplingParams
from adapmoe.llm import LLM

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
            word, _, rest = line.strip().partition(" ")
            if word == "/exit":
                break
            if word in self._commands:
                self._commands[word](rest.strip())
            elif word.startswith("/"):
                _say(f"{word} is not a command; /help lists them")
                self._all_answered = False
            elif word:
                self._answer(line)
        return self._all_answered or self._terminal

    def _read_line(self) -> str | None:
        """The next line without its end; None at the end of the input."""
        if not self._terminal:
            line = sys.stdin.readline()
            return line.rstrip("\n") if line else None
        while True:
            try:
                return input("> ")
            except KeyboardInterrupt:
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
        except AdapmoeError as error:
            _say(f"error: {error}")
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
    str | None, typer.Option(help="What the system message says.", show_default=False)
]
ChatTemplateOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="A file with a Jinja chat template, instead of the pack's.",
        show_default=False,
    ),
]


def chat(
    pack: PackArgument,
    system: SystemOption = None,
    chat_template: ChatTemplateOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    repetition_penalty: RepetitionPenaltyOption = 1.0,
    presence_penalty: PresencePenaltyOption = 0.0,
    frequency_penalty: FrequencyPenaltyOption = 0.0,
    seed: SeedOption = None,
    stop: StopOption = None,
    stop_id: StopIdOption = None,
    ignore_eos: IgnoreEosOption = False,
    memory: MemoryOption = "auto",
    experts_resident: ExpertsResidentOption = None,
    threads: ThreadsOption = None,
    max_context: MaxContextOption = 0,
    policy: PolicyOption = "next-use",
    kernels: KernelsOption = "auto",
    backend: BackendOption = "auto",
    experts: ExpertPathOption = "auto",
    exact: ExactOption = True,
    kv_dtype: KvDtypeOption = "f16",
) -> None:
    """Talk to a model. Every line is a message; answers go to stdout, all else to stderr.

    Ctrl-C stops an answer, Ctrl-D or /exit leaves, /help lists what else there is.

    Examples:

      adapmoe chat mixtral-instruct.adapmoe --memory 12GiB --system "Answer briefly."

      printf 'Hello\\nAnd in French?\\n' | adapmoe chat mixtral-instruct.adapmoe -n 100
    """
    with usage_errors():
        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            seed=seed,
            stop=tuple(stop or ()),
            ignore_eos=ignore_eos,
        )
        template = chat_template.read_text(encoding="utf-8") if chat_template else None
        options = LLMOptions(
            memory, experts_resident, threads, max_context, policy, kernels, kv_dtype
        )
        chosen = ExpertOptions(backend=backend, arithmetic=experts, exact=exact)
        llm = open_llm(pack, options, chosen)
        params = replace(params, stop_token_ids=check_stop_ids(stop_id, llm.vocab_size))
    with llm, Conversation(llm, system=system, chat_template=template) as conversation:
        all_answered = ChatLoop(llm, conversation, params).run()
    if not all_answered:
        raise typer.Exit(RUNTIME_ERROR)
