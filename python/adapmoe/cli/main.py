# SPDX-License-Identifier: Apache-2.0
"""The `adapmoe` command."""

import importlib
import io
import sys
from typing import Annotated, Any

import typer
import typer.core
import typer.main

import adapmoe
from adapmoe.cli.bench import bench
from adapmoe.cli.build_engines import build_engines_of_pack
from adapmoe.cli.calibrate import calibrate_pack
from adapmoe.cli.chat import chat
from adapmoe.cli.doctor import doctor
from adapmoe.cli.eval import evaluate_text
from adapmoe.cli.output import USAGE_ERROR, exit_codes
from adapmoe.cli.plan import plan
from adapmoe.cli.replay import replay_trace
from adapmoe.cli.report import report
from adapmoe.cli.run import run
from adapmoe.cli.verify import verify


class _Verbs(typer.core.TyperGroup):
    """All verbs end with the same exit codes."""

    # The class of a context is click's or typer's own, depending on the version of typer.
    def invoke(self, ctx: Any) -> Any:
        with exit_codes():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run)
app.command("bench")(bench)
app.command("chat")(chat)
app.command("eval")(evaluate_text)
app.command("verify")(verify)
app.command("plan")(plan)
app.command("replay")(replay_trace)
app.command("report")(report)
app.command("calibrate")(calibrate_pack)
app.command("doctor")(doctor)
app.command("build-engines")(build_engines_of_pack)

# These two verbs come with imports that the others should not pay for, and parse their own options.
_FORWARD = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}


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

    Start with a Hugging Face Mixtral checkpoint:

      adapmoe export Mixtral-8x7B-v0.1 mixtral.adapmoe

      adapmoe run mixtral.adapmoe -p "Once upon a time" --memory 12GiB
    """


@app.command("inspect", context_settings=_FORWARD, add_help_option=False)
def _inspect(ctx: typer.Context) -> None:
    """Show what is in a pack."""
    _forward(ctx, "adapmoe.cli.inspect", "inspect")


@app.command("export", context_settings=_FORWARD, add_help_option=False)
def _export(ctx: typer.Context) -> None:
    """Turn a Hugging Face Mixtral checkpoint into a pack (needs the `export` extra)."""
    try:
        _forward(ctx, "adapmoe_export.cli", "export")
    except ModuleNotFoundError as error:
        if error.name == "adapmoe._core":
            raise  # a broken installation, not a missing extra
        typer.echo(
            f"error: the exporter needs the Python package {error.name!r}, which is missing: "
            "pip install 'adapmoe[export]'",
            err=True,
        )
        raise typer.Exit(USAGE_ERROR) from error


def _forward(ctx: typer.Context, module: str, function: str) -> None:
    """Import a verb and hand its arguments over, as if it had been registered like the others."""
    verb = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    verb.command(context_settings={"help_option_names": ["-h", "--help"]})(
        getattr(importlib.import_module(module), function)
    )
    typer.main.get_command(verb).main(args=ctx.args, prog_name=ctx.command_path)


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdin, sys.stdout):  # what is not UTF-8 must not end the run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="adapmoe")


if __name__ == "__main__":
    main()
