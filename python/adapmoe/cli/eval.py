# SPDX-License-Identifier: Apache-2.0
"""`adapmoe eval`: perplexity of a text."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adapmoe.calibration.statistics import Evaluation, evaluate
from adapmoe.cli.options import (
    AllocationOption,
    BackendOption,
    EvictOption,
    ExactOption,
    ExpertOptions,
    ExpertPathOption,
    ExpertsResidentOption,
    GatingOption,
    JsonOption,
    KernelsOption,
    KvDtypeOption,
    LLMOptions,
    MaxContextOption,
    MemoryOption,
    PackArgument,
    PolicyOption,
    PrefetchOption,
    ThreadsOption,
    TraceOption,
    open_llm,
)
from adapmoe.cli.output import usage_errors
from adapmoe.llm import LLM


def evaluate_text(
    pack: PackArgument,
    text: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="The text, UTF-8.", show_default=False),
    ],
    window: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Tokens per window. Default: 256, less if the context is shorter.",
            show_default=False,
        ),
    ] = None,
    memory: MemoryOption = "auto",
    experts_resident: ExpertsResidentOption = None,
    threads: ThreadsOption = None,
    max_context: MaxContextOption = 0,
    gating: GatingOption = "off",
    prefetch: PrefetchOption = 1,
    policy: PolicyOption = "next-use",
    allocation: AllocationOption = "global",
    evict: EvictOption = "tile",
    kernels: KernelsOption = "auto",
    backend: BackendOption = "auto",
    experts: ExpertPathOption = "auto",
    exact: ExactOption = True,
    kv_dtype: KvDtypeOption = "f16",
    chunk: Annotated[
        int, typer.Option(min=1, help="Tokens per step; 1 goes token by token, as decoding does.")
    ] = 128,
    trace: TraceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well the model predicts a text: perplexity over windows that do not overlap.

    Examples:

      adapmoe eval mixtral.adapmoe --text evaluation.txt --memory 12GiB

      adapmoe eval mixtral.adapmoe --text evaluation.txt --window 512 --json

      adapmoe eval mixtral.adapmoe --text evaluation.txt --chunk 1 --trace decode.npz
    """
    with usage_errors():
        content = text.read_text(encoding="utf-8")
        chosen = ExpertOptions(gating, prefetch, allocation, evict, backend, experts, exact)
        options = LLMOptions(
            memory, experts_resident, threads, max_context, policy, kernels, kv_dtype, chunk
        )
        with open_llm(pack, options, chosen) as llm, llm.recording(trace):
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
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("windows", total=None)

        def on_progress(done: int, windows: int) -> None:
            progress.update(task, completed=done, total=windows)

        return evaluate(llm, text, window=window, on_progress=on_progress)
