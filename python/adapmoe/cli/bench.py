# SPDX-License-Identifier: Apache-2.0
"""`adapmoe bench`: measure decode and prefill, and compare techniques."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from adapmoe import _core
from adapmoe.bench.bench import Bench, BenchResult
from adapmoe.bench.profile import PhaseProfile
from adapmoe.bench.variants import Settings
from adapmoe.cli.bench_profile_table import print_profile
from adapmoe.cli.bench_tables import print_tables
from adapmoe.cli.exit_codes import usage_errors
from adapmoe.cli.options import (
    AllocationOption,
    BackendOption,
    EvictOption,
    ExactOption,
    ExpertPathOption,
    ExpertsResidentOption,
    GatingOption,
    JsonOption,
    MemoryOption,
    PackArgument,
    PolicyOption,
    PrefetchOption,
    ReaderOption,
    ReadersOption,
    ThreadsOption,
    TimelineOption,
)
from adapmoe.units import parse_percent

TextOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="The tokens to feed, UTF-8. Default: a text of the package.",
        show_default=False,
    ),
]
RequestBytesOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Of one read at most, a multiple of 4096; 0: whole tiles. Default: as --readers.",
        show_default=False,
    ),
]
ProfileOption = Annotated[
    bool,
    typer.Option("--profile", help="Also show where the time of a token goes, part by part."),
]


def bench(
    pack: PackArgument,
    memory: MemoryOption = "auto",
    experts_resident: ExpertsResidentOption = None,
    text: TextOption = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens to prefill.")] = 128,
    warmup: Annotated[int, typer.Option(min=0, help="Decode steps before measuring.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Decode steps to measure.")] = 48,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 3,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Also measure with every setting changed in turn.")
    ] = False,
    threads: ThreadsOption = None,
    policy: PolicyOption = "next-use",
    evict: EvictOption = "tile",
    allocation: AllocationOption = "global",
    prefetch: PrefetchOption = 1,
    gating: GatingOption = "off",
    backend: BackendOption = "auto",
    experts: ExpertPathOption = "auto",
    exact: ExactOption = True,
    reader: ReaderOption = "auto",
    readers: ReadersOption = None,
    request_bytes: RequestBytesOption = None,
    verify: Annotated[
        str, typer.Option(help="Check the CRC of tiles: always, first or never.")
    ] = "always",
    profile: ProfileOption = False,
    timeline: TimelineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure speed, reading and waiting, and how far they are from what the machine allows.

    All runs are fed the same tokens, take turns, and are reported as medians.

    Examples:

      adapmoe bench mixtral.adapmoe --memory 12GiB

      adapmoe bench mixtral.adapmoe --experts-resident 100% --profile --repeat 1

      adapmoe bench mixtral.adapmoe --experts-resident 25% --ablation --json
    """
    with usage_errors():
        settings: Settings = {
            "memory": memory,
            "expert_fraction": 0.0 if experts_resident is None else parse_percent(experts_resident),
            "threads": threads or _core.usable_cpus(),
            "policy": policy,
            "evict": evict,
            "allocation": allocation,
            "prefetch": prefetch,
            "prefetch_trials": True,
            "first_layer": "embedding",
            "gating": gating,
            "backend": backend,
            "experts": experts,
            "exact": exact,
            "reader": reader,
            "readers": readers,
            "request_bytes": request_bytes,
            "verify": verify,
        }
        content = None if text is None else text.read_text(encoding="utf-8")
        run = Bench(pack, settings, content, prompt_tokens, warmup, tokens)
        result = _run(run, repeat, ablation=ablation)
        phases = run.profile() if profile else {}
        if timeline is not None:
            run.write_timeline(timeline)
    _print(result, phases, as_json=as_json)


def _print(result: BenchResult, phases: dict[str, PhaseProfile], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result.as_dict() | _profile_report(result, phases), allow_nan=False))
    else:
        print_tables(result)
        for name, phase in phases.items():
            print_profile(name, phase, *_bandwidths(result))


def _bandwidths(result: BenchResult) -> tuple[float, float]:
    """Of memory and of the disk, bytes per second."""
    return result.memory_bytes_per_s, result.bound["disk_bytes_per_s"].median


def _profile_report(result: BenchResult, phases: dict[str, PhaseProfile]) -> dict[str, Any]:
    if not phases:
        return {}
    bandwidths = _bandwidths(result)
    return {"profile": {name: phase.as_dict(*bandwidths) for name, phase in phases.items()}}


def _run(run: Bench, repeat: int, *, ablation: bool) -> BenchResult:
    console = Console(stderr=True)
    status: Any = console.status("opening") if console.is_terminal else nullcontext()
    with status:

        def on_run(name: str, number: int, total: int) -> None:
            if console.is_terminal:
                status.update(f"run {number} of {total}: {name}")

        return run.run(repeat, ablation=ablation, on_run=on_run)
