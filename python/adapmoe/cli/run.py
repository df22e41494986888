# SPDX-License-Identifier: Apache-2.0
"""`adapmoe run`: continue a prompt."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from adapmoe.cli.exit_codes import INTERRUPTED, usage_errors
from adapmoe.cli.options import (
    ExpertsResidentOption,
    JsonOption,
    KernelsOption,
    KvDtypeOption,
    MaxContextOption,
    MemoryOption,
    PackArgument,
    PolicyOption,
    ThreadsOption,
    open_llm,
)
from adapmoe.generate import GenerationStream
from adapmoe.generation import GenerationResult
from adapmoe.llm import LLM
from adapmoe.sampling_params import SamplingParams
from adapmoe.stats import peak_rss_bytes, split_as_dict
from adapmoe.units import format_bytes

PromptOption = Annotated[
    str | None,
    typer.Option("--prompt", "-p", help="The prompt; - reads stdin.", show_default=False),
]
PromptFileOption = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Read the prompt here.", show_default=False),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-tokens", "-n", help="Most tokens to generate. Default: 256.", show_default=False
    ),
]
TemperatureOption = Annotated[float, typer.Option(help="0 takes the most likely token.")]
TopKOption = Annotated[int, typer.Option(help="Sample among the K most likely tokens; 0: off.")]
TopPOption = Annotated[
    float, typer.Option(help="Sample among the likeliest tokens up to P in sum; 1: off.")
]
SeedOption = Annotated[
    int | None, typer.Option(help="Makes sampling repeatable.", show_default=False)
]
StopOption = Annotated[
    list[str] | None,
    typer.Option(help="End at this text; may be given several times.", show_default=False),
]
IgnoreEosOption = Annotated[
    bool, typer.Option("--ignore-eos", help="Go on after an end-of-sequence token.")
]


def run(
    pack: PackArgument,
    prompt: PromptOption = None,
    prompt_file: PromptFileOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = None,
    stop: StopOption = None,
    ignore_eos: IgnoreEosOption = False,
    memory: MemoryOption = "auto",
    experts_resident: ExpertsResidentOption = None,
    threads: ThreadsOption = None,
    max_context: MaxContextOption = 0,
    policy: PolicyOption = "farthest-layer",
    kernels: KernelsOption = "auto",
    kv_dtype: KvDtypeOption = "f16",
    as_json: JsonOption = False,
) -> None:
    """Continue a prompt. Text goes to stdout as it is generated, statistics to stderr.

    Examples:

      adapmoe run mixtral.adapmoe -p "The first law of robotics" -n 64 --memory 12GiB

      adapmoe run mixtral.adapmoe --prompt-file story.txt --temperature 0.8 --top-p 0.95 --seed 1

      git diff | adapmoe run mixtral.adapmoe -p - --stop "\\n\\n" --json
    """
    with usage_errors():
        text = _read_prompt(prompt, prompt_file)
        params = SamplingParams(
            max_tokens, temperature, top_k, top_p, seed, tuple(stop or ()), ignore_eos
        )
        llm = open_llm(
            pack,
            {
                "memory": memory,
                "experts_resident": experts_resident,
                "threads": threads,
                "max_context": max_context,
                "policy": policy,
                "kernels": kernels,
                "kv_dtype": kv_dtype,
            },
        )
    with llm, llm.generate(text, params, stream=True) as chunks:
        interrupted = _print_chunks(chunks, silent=as_json)
        report = _report(llm, chunks.results[0])
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _print_statistics(report)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    if (prompt is None) == (prompt_file is None):
        raise ValueError("give the prompt with either --prompt (-p) or --prompt-file")
    if prompt_file is not None:
        return prompt_file.read_text(encoding="utf-8")
    return sys.stdin.read() if prompt == "-" else str(prompt)


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


def _report(llm: LLM, result: GenerationResult) -> dict[str, Any]:
    return {
        "text": result.text,
        "token_ids": result.token_ids,
        "prompt_tokens": result.prompt_tokens,
        "generated_tokens": len(result.token_ids),
        "finish_reason": result.finish_reason,
        "stats": {
            **result.stats.as_dict(),
            "peak_rss_bytes": peak_rss_bytes(),
            "backend": llm.backend,
            "memory": split_as_dict(llm.memory_split),
        },
    }


def _print_statistics(report: dict[str, Any]) -> None:
    stats = report["stats"]
    prefill_speed, decode_speed = stats["prefill_tokens_per_s"], stats["decode_tokens_per_s"]
    rows = {
        "prompt": f"{report['prompt_tokens']} tokens, {prefill_speed:.1f} per second",
        "generated": f"{report['generated_tokens']} tokens, {decode_speed:.1f} per second",
        "ended by": report["finish_reason"] or "interrupt",
        "experts used": f"{stats['experts_used']}, {stats['hit_rate']:.1%} found resident",
        "read from the pack": format_bytes(stats["bytes_read"]),
        "waited for experts": f"{stats['stall_s']:.3f} s",
        "computed": f"{stats['compute_s']:.3f} s",
        "peak memory": format_bytes(stats["peak_rss_bytes"]),
    }
    table = Table(title="statistics", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for label, value in rows.items():
        table.add_row(label, value)
    Console(stderr=True).print(table)
