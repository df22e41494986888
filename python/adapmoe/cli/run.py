# SPDX-License-Identifier: Apache-2.0
"""`adapmoe run`: continue a prompt."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from adapmoe.cli.options import (
    AllocationOption,
    BackendOption,
    EvictOption,
    ExactOption,
    ExpertOptions,
    ExpertPathOption,
    ExpertsResidentOption,
    FrequencyPenaltyOption,
    GatingOption,
    IgnoreEosOption,
    JsonOption,
    KernelsOption,
    KvDtypeOption,
    LLMOptions,
    LogprobsOption,
    MaxContextOption,
    MaxTokensOption,
    MemoryOption,
    MinPOption,
    PackArgument,
    PolicyOption,
    PrefetchOption,
    PresencePenaltyOption,
    ReadDepthOption,
    ReaderOption,
    RepetitionPenaltyOption,
    SeedOption,
    StopIdOption,
    StopOption,
    TemperatureOption,
    ThreadsOption,
    TimelineOption,
    TopKOption,
    TopPOption,
    TraceOption,
    check_stop_ids,
    open_llm,
)
from adapmoe.cli.output import INTERRUPTED, make_report, print_statistics, usage_errors
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.stream import GenerationStream
from adapmoe.llm import LLM
from adapmoe.tracing.timeline import write_chrome_trace

PromptOption = Annotated[
    str | None,
    typer.Option("--prompt", "-p", help="The prompt; - reads stdin.", show_default=False),
]
PromptFileOption = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Read the prompt here.", show_default=False),
]


def run(
    pack: PackArgument,
    prompt: PromptOption = None,
    prompt_file: PromptFileOption = None,
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
    logprobs: LogprobsOption = None,
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
    reader: ReaderOption = "auto",
    read_depth: ReadDepthOption = None,
    trace: TraceOption = None,
    timeline: TimelineOption = None,
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
            logprobs=logprobs if as_json else None,
        )
        options = LLMOptions(
            memory, experts_resident, threads, max_context, policy, kernels, kv_dtype
        )._replace(timeline=timeline is not None, reader=reader, read_depth=read_depth)
        of_experts = ExpertOptions(gating, prefetch, allocation, evict, backend, experts, exact)
        llm = open_llm(pack, options, of_experts)
        params = replace(params, stop_token_ids=check_stop_ids(stop_id, llm.vocab_size))
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
