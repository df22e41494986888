# SPDX-License-Identifier: Apache-2.0
"""`adapmoe eval`: perplexity of a text."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adapmoe.calibration.statistics import Evaluation, evaluate
from adapmoe.cli.failures import usage_errors
from adapmoe.cli.options import JsonOption, PackArgument, TraceOption, with_options
from adapmoe.cli.output import console
from adapmoe.llm import LLM
from adapmoe.machine.files import read_text
from adapmoe.settings import Settings


@with_options(without=("timeline",))
def evaluate_text(
    pack: PackArgument,
    *,
    text: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="The text, UTF-8.")
    ],
    window: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Tokens per window; default: 256, less if the context is shorter.",
        ),
    ] = None,
    settings: Settings,
    trace: TraceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well the model predicts a text: perplexity over windows that do not overlap.

    With --prefill-chunk 1 it goes token by token, as decoding does.

    Examples:
      adapmoe eval mixtral.adapmoe --text evaluation.txt --memory 12GiB
      adapmoe eval mixtral.adapmoe --text evaluation.txt --window 512 --json
      adapmoe eval mixtral.adapmoe --text evaluation.txt --prefill-chunk 1 --trace decode.npz
    """
    with usage_errors():
        content = read_text(text)
        with LLM(pack, **vars(settings)) as llm, llm.recording(trace):
            found = _with_progress_bar(llm, content, window)
    if as_json:
        typer.echo(json.dumps(found, allow_nan=False))
    else:
        typer.echo("perplexity {perplexity:.4f}  nll {nll:.6f}  tokens {tokens}".format(**found))


def _with_progress_bar(llm: LLM, text: str, window: int | None) -> Evaluation:
    columns = (
        TextColumn("windows"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True)) as progress:
        task = progress.add_task("windows", total=None)

        def on_progress(done: int, windows: int) -> None:
            progress.update(task, completed=done, total=windows)

        return evaluate(llm, text, window=window, on_progress=on_progress)
