# SPDX-License-Identifier: Apache-2.0
"""`adapmoe bench`: measure decode and prefill, and compare techniques."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from adapmoe.bench.bench import Bench, BenchResult, VariantSummary
from adapmoe.bench.profile import Part, PhaseProfile
from adapmoe.bench.workload import BASE
from adapmoe.cli.failures import usage_errors
from adapmoe.cli.options import JsonOption, PackArgument, TimelineOption, with_options
from adapmoe.cli.output import console
from adapmoe.machine.files import read_text
from adapmoe.settings import Settings
from adapmoe.units import format_bytes

_FILE_WIDTH = 132  # where there is no terminal


def print_tables(result: BenchResult) -> None:
    """Print to stdout."""
    out = console(file_width=_FILE_WIDTH)
    base = result.variants[BASE]
    out.print(_base_table(result, base))
    if len(result.variants) > 1:
        out.print(_ablation_table(result))
    if not result.direct:
        out.print("the file system refuses O_DIRECT: the disk's speed may be memory's")


def _base_table(result: BenchResult, base: VariantSummary) -> Table:
    table = Table(
        title=f"{result.pack}: median of {result.repeat} (least - most)",
        title_justify="left",
        show_header=False,
    )
    table.add_column(style="bold")
    table.add_column()
    found, bound = base.measured, result.bound
    compute_s, disk = bound["compute_s_per_token"], bound["disk_bytes_per_s"]
    where = "everything resident" if result.all_resident else "beside reading: not all fits"
    rows = {
        "decode": f"{found['decode_tokens_per_s']} tokens/s",
        "prefill": f"{found['prefill_tokens_per_s']} tokens/s",
        "activations per token": f"{found['activations_per_token'].median:.2f}",
        "read per token": format_bytes(round(found["bytes_per_token"].median)),
        "hit rate": f"{found['hit_rate'].median:.1%}",
        "waiting for experts": f"{found['stall_share'].median:.1%} of the time",
        "peak memory": format_bytes(round(found["peak_rss_bytes"].most)),
        "computing": f"{1000 * compute_s.median:.1f} ms per token ({where})",
        "disk": f"{disk.median / 1e9:.2f} GB/s, whole experts at random, two at a time",
        "memory": f"{result.memory_bytes_per_s / 1e9:.1f} GB/s",
        "of the bound": f"{base.fraction_of_bound.median:.1%} "
        f"({base.fraction_of_bound.least:.1%} - {base.fraction_of_bound.most:.1%})",
    }
    if "joules_per_token" in found:
        rows["energy"] = f"{found['joules_per_token']} J per token"
    for label, value in rows.items():
        table.add_row(label, value)
    return table


def _ablation_table(result: BenchResult) -> Table:
    table = Table(
        "variant",
        title="one setting changed; speed-up over the base of the same round",
        title_justify="left",
        box=box.SIMPLE,
    )
    for name in (
        "tokens/s",
        "speed-up",
        "read/token",
        "hits",
        "waits",
        "in layer 0",
        "activations",
        "of the bound",
    ):
        table.add_column(name, justify="right")
    for name, variant in result.variants.items():
        found = variant.measured
        table.add_row(
            name,
            str(found["decode_tokens_per_s"]),
            str(variant.speedup),
            format_bytes(round(found["bytes_per_token"].median)),
            f"{found['hit_rate'].median:.1%}",
            f"{found['stall_ms_per_token'].median:.1f} ms",
            f"{found['first_layer_stall_ms'].median:.2f} ms",
            f"{found['activations_per_token'].median:.2f}",
            f"{variant.fraction_of_bound.median:.1%}",
        )
    return table


def print_profile(name: str, phase: PhaseProfile, memory: float, disk: float) -> None:
    """Print a phase to stdout; `memory` and `disk` are bandwidths in bytes per second."""
    table = Table(
        "part",
        title=f"{name}: where a token's time goes, mean of {phase.tokens}",
        title_justify="left",
        box=box.SIMPLE,
    )
    for column in ("ms", "share", "MB from memory", "of memory bandwidth"):
        table.add_column(column, justify="right")
    total = Part(phase.seconds_per_token, 1.0, phase.memory_bytes_per_token)
    for part_name, part in phase.parts.items():
        table.add_row(part_name, *_cells(part, memory))
    table.add_section()
    table.add_row("all", *_cells(total, memory))
    out = console(file_width=_FILE_WIDTH)
    out.print(table)
    shares = phase.bandwidth_shares(memory, disk)
    out.print(
        f"{name} is bound by {phase.bound_by(memory, disk)}: reading alone would take "
        f"{shares['memory']:.0%} of the time from memory at {memory / 1e9:.1f} GB/s, and "
        f"{shares['disk']:.0%} from the disk ({phase.disk_bytes_per_token / 1e6:.1f} MB) at "
        f"{disk / 1e9:.2f} GB/s"
    )


def _cells(part: Part, memory: float) -> tuple[str, ...]:
    reached = part.of_bandwidth(memory)
    return (
        f"{1000 * part.seconds:.3f}",
        f"{part.share:.1%}",
        "" if part.memory_bytes is None else f"{part.memory_bytes / 1e6:.3f}",
        "" if reached is None else f"{reached:.0%}",
    )


_DEFAULT = "default, where the model's context has room:"
TextOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="The tokens to feed, UTF-8; default: a text of the package.",
    ),
]
PromptTokensOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help=f"To prefill; {_DEFAULT} 128.")
]
WarmupOption = Annotated[
    int | None, typer.Option(min=0, metavar="N", help=f"Steps before measuring; {_DEFAULT} 16.")
]
TokensOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help=f"Decode steps to measure; {_DEFAULT} 48."),
]
RepeatOption = Annotated[
    int, typer.Option(min=1, max=10_000, metavar="N", help="Rounds; medians are reported.")
]
AblationOption = Annotated[
    bool, typer.Option("--ablation", help="Also measure with every setting changed in turn.")
]
ProfileOption = Annotated[
    bool,
    typer.Option("--profile", help="Also show where the time of a token goes, part by part."),
]


@with_options(without=("max_context", "max_sequences", "warm_restart", "verbose"))
def bench(
    pack: PackArgument,
    *,
    text: TextOption = None,
    prompt_tokens: PromptTokensOption = None,
    warmup: WarmupOption = None,
    tokens: TokensOption = None,
    repeat: RepeatOption = 3,
    ablation: AblationOption = False,
    profile: ProfileOption = False,
    settings: Settings,
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
        content = None if text is None else read_text(text)
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
    errors = console(stderr=True)
    status: Any = errors.status("opening") if errors.is_terminal else nullcontext()
    with status:

        def on_run(name: str, number: int, total: int) -> None:
            if errors.is_terminal:
                status.update(f"run {number} of {total}: {name}")

        return run.run(repeat, ablation=ablation, on_run=on_run)
