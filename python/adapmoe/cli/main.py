# SPDX-License-Identifier: Apache-2.0
"""The commands; the module of one is imported when it is asked for."""

import importlib
from typing import Annotated, Any

import typer
import typer.core
import typer.main

import adapmoe
from adapmoe.cli.failures import USAGE_ERROR, exit_codes, fail, report
from adapmoe.cli.verb import CONTEXT, Verb, write_options, write_text

# name: module, function, and one line for the list
_VERBS = {
    "export": ("adapmoe_export.cli", "export", "Turn a Hugging Face checkpoint into a pack."),
    "run": ("adapmoe.cli.run", "run", "Continue a prompt."),
    "chat": ("adapmoe.cli.chat", "chat", "Talk to a model."),
    "serve": ("adapmoe.cli.serve", "serve", "Answer requests over HTTP, as other services do."),
    "plan": ("adapmoe.cli.plan", "plan", "Predict speed for every budget; recommend settings."),
    "bench": ("adapmoe.cli.bench", "bench", "Measure speed, reading and waiting."),
    "eval": ("adapmoe.cli.eval", "evaluate_text", "Measure how well a model predicts a text."),
    "inspect": ("adapmoe.cli.inspect", "inspect", "Show what is in a pack."),
    "verify": ("adapmoe.cli.verify", "verify", "Read a whole pack and check it."),
    "doctor": ("adapmoe.cli.doctor", "doctor", "Look at this machine and this build."),
    "calibrate": (
        "adapmoe.cli.calibrate",
        "calibrate_pack",
        "Find what a model can do without.",
    ),
    "replay": ("adapmoe.cli.replay", "replay_trace", "Compare eviction policies on a trace."),
    "report": ("adapmoe.cli.report", "report", "Draw figures of a pack."),
    "build-engines": (
        "adapmoe.cli.build_engines",
        "build_engines_of_pack",
        "Build TensorRT engines for a pack.",
    ),
}


class _Verbs(typer.core.TyperGroup):
    """All verbs, as names until one is used."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (_, _, line) in _VERBS.items():
            self.commands[name] = typer.core.TyperCommand(name, help=line)

    # The classes of click are its own or typer's, depending on the version of typer.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse bytes that are no text, wherever they stand."""
        for word in args:
            if any("\ud800" <= character <= "\udfff" for character in word):
                ctx.fail(f"{word!a} is not UTF-8 text")
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the verb that is asked for."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else _load(name), rest

    def invoke(self, ctx: Any) -> Any:
        """Keep typer, which has its own way with these, from seeing them."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, OSError) as error:
            raise SystemExit(report(error)) from None

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run a command line and end with its exit code."""
        with exit_codes():
            return super().main(*args, **settings)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Keep the lines of examples."""
        write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """List the verbs first."""
        self.format_commands(ctx, formatter)
        write_options(self.get_params(ctx), ctx, formatter)


def _load(name: str) -> Any:
    """The command of a verb."""
    module, function, _ = _VERBS[name]
    try:
        verb = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if name != "export" or (error.name or "").split(".")[0] == "adapmoe":
            raise  # a broken installation, not a missing extra
        fail(
            f"the exporter needs the Python package {error.name!r}, which is missing: "
            "pip install 'adapmoe[export]'"
        )
        raise SystemExit(USAGE_ERROR) from error
    one = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=CONTEXT)
    one.command(name, cls=Verb)(verb)
    return typer.main.get_command(one)


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # what users type is shown as it is
    context_settings=CONTEXT,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(adapmoe.__version__)
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
]


@app.callback()
def _verbs(version: VersionOption = False) -> None:
    """Run Mixture-of-Experts language models that do not fit in memory.

    Make a pack of a Hugging Face checkpoint once, then run it under a ceiling:
      adapmoe export Mixtral-8x7B-v0.1 mixtral.adapmoe
      adapmoe run mixtral.adapmoe -p "Once upon a time" --memory 12GiB
      adapmoe chat mixtral-instruct.adapmoe

    `adapmoe run` alone shows more examples, `adapmoe run --help` all options.
    """
