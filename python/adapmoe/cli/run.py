# SPDX-License-Identifier: Apache-2.0
"""`adapmoe run`: continue a prompt."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from adapmoe.cli.failures import INTERRUPTED, usage_errors
from adapmoe.cli.options import (
    PROMPT,
    JsonOption,
    PackArgument,
    TimelineOption,
    TraceOption,
    with_options,
)
from adapmoe.cli.output import make_report, print_statistics
from adapmoe.cli.streams import decoded, reading_stdin
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.stream import GenerationStream
from adapmoe.llm import LLM
from adapmoe.machine.files import MOST_TEXT_BYTES, read_text, text_too_long
from adapmoe.settings import Settings
from adapmoe.tracing.timeline import write_chrome_trace

PromptOption = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        "-p",
        metavar="TEXT",
        help="The prompt; - reads stdin.",
        rich_help_panel=PROMPT,
    ),
]
PromptFileOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="Read the prompt here.",
        rich_help_panel=PROMPT,
    ),
]


@with_options()
def run(
    pack: PackArgument,
    *,
    prompt: PromptOption = None,
    prompt_file: PromptFileOption = None,
    sampling: SamplingParams,
    settings: Settings,
    trace: TraceOption = None,
    timeline: TimelineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Continue a prompt. Text goes to stdout as it is generated, statistics to stderr.

    Examples:
      adapmoe run mixtral.adapmoe -p "The first law of robotics" -n 64 --memory 12GiB
      adapmoe run mixtral.adapmoe -p "Once upon a time" --temperature 0.8
      git diff | adapmoe run mixtral.adapmoe -p -
    """
    with usage_errors():
        text = _read_prompt(prompt, prompt_file)
        params = sampling if as_json else replace(sampling, logprobs=None)
        llm = LLM(pack, **vars(replace(settings, timeline=timeline is not None)))
    _generate(llm, text, params, trace, timeline, as_json=as_json)


def _generate(
    llm: LLM,
    text: str,
    params: SamplingParams,
    trace: Path | None,
    timeline: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print text and report, and close the model."""
    with llm, llm.recording(trace), _begin(llm, text, params) as chunks:
        interrupted = _print_chunks(chunks, silent=as_json)
        report = make_report(llm, chunks.results[0])
        if timeline is not None:
            write_chrome_trace(timeline, llm.timeline())
    _print_report(report, as_json=as_json)
    raise typer.Exit(INTERRUPTED if interrupted else 0)


def _begin(llm: LLM, text: str, params: SamplingParams) -> GenerationStream:
    """Check the prompt, such as one without any token; no step runs yet."""
    with usage_errors():
        return llm.generate(text, params, stream=True)


def _print_report(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report, allow_nan=False))
    else:
        print_statistics(report)


def _read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    if (prompt is None) == (prompt_file is None):
        raise ValueError("give the prompt with either --prompt (-p) or --prompt-file")
    if prompt_file is not None:
        return read_text(prompt_file)
    if prompt != "-":
        return str(prompt)
    with reading_stdin():
        text = sys.stdin.read(MOST_TEXT_BYTES + 1)
    if len(text) > MOST_TEXT_BYTES:
        raise text_too_long("standard input")
    return decoded("standard input", text)


def _print_chunks(chunks: GenerationStream, *, silent: bool) -> bool:
    """Run to the end, or until Ctrl-C: then return True. What was printed stays."""
    interrupted = False
    try:
        for chunk in chunks:
            if not silent:
                print(chunk.text, end="", flush=True)  # typer.echo would drop escape sequences
    except KeyboardInterrupt:
        interrupted = True
    if not silent and sys.stdout.isatty():
        typer.echo()  # into a file or pipe goes the text alone
    return interrupted
