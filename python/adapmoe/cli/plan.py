# SPDX-License-Identifier: Apache-2.0
"""`adapmoe plan`: how fast a model will run under a memory ceiling."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from adapmoe.cli.failures import usage_errors
from adapmoe.cli.options import JsonOption, PackArgument, with_options
from adapmoe.cli.output import console
from adapmoe.errors import PackError
from adapmoe.generation.sequence import as_token_ids
from adapmoe.llm import LLM
from adapmoe.machine.files import read_text
from adapmoe.opening.allocation import CalibrationFacts
from adapmoe.opening.read_settings import remember
from adapmoe.pack.manifest import Manifest
from adapmoe.planning.measure import Measurements, measure
from adapmoe.planning.plan import Check, Plan, Prediction, check_plan, make_plan
from adapmoe.planning.routing_sample import sample_from_statistics, sample_from_text
from adapmoe.settings import Settings
from adapmoe.text.sample_text import SAMPLE_TEXT
from adapmoe.tracing.trace import Trace
from adapmoe.units import format_bytes


def print_plan(found: Plan, measured: Measurements, checks: list[Check]) -> None:
    """Print tables to stdout: the machine, the curve, the settings, and the checks if any."""
    out = console()
    facts = {
        "floor": f"{format_bytes(found.floor_bytes)}, the least that can run",
        "one token's experts": format_bytes(found.cycle_bytes),
        "everything resident": format_bytes(found.everything_bytes),
        "disk": f"{measured.disk.bytes_per_s / 1e9:.2f} GB/s in random tiles, "
        f"{measured.disk.read_depth} reads at a time",
        "memory": f"{measured.memory_bytes_per_s / 1e9:.1f} GB/s, so at most "
        f"{measured.memory_bytes_per_s / measured.token_bytes:.1f} tokens/s",
        "routing from": found.routing,
        "a server's limit": f"{format_bytes(found.memory_max_bytes)}, MemoryMax= of a unit: the "
        "recommended memory and what a server takes besides",
    }
    table = Table(title="this pack on this machine", title_justify="left", show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    out.print(table, _curve_table(found))
    settings = Table(title="recommended", title_justify="left", show_header=False)
    for name, value in found.recommended.items():
        shown = format_bytes(value) if name == "memory" else str(value)
        settings.add_row(name, shown, found.reasons[name])
    out.print(settings)
    if checks:
        out.print(_check_table(checks))
    for warning in found.warnings:
        out.print(f"warning: {warning}", style="yellow")


def _curve_table(found: Plan) -> Table:
    table = Table(title="predicted decoding; > as asked for", title_justify="left")
    for column in ("memory", "experts", "hit rate", "optimum", "tokens/s", "range"):
        table.add_column(column, justify="right")
    for row in found.curve:
        mark = "> " if row.memory_bytes == found.memory_bytes else ""
        table.add_row(mark + format_bytes(row.memory_bytes), *_cells(row))
    if found.memory_bytes > found.curve[-1].memory_bytes:
        table.add_row(f"> {format_bytes(found.memory_bytes)}", *_cells(found.at_memory))
    return table


def _cells(row: Prediction) -> list[str]:
    return [
        f"{row.experts} ({row.share:.0%})",
        f"{row.hit_rate:.1%}",
        f"{row.belady_hit_rate:.1%}",
        f"{row.tokens_per_s:.2f}",
        f"{row.low:.2f} - {row.high:.2f}",
    ]


def _check_table(checks: list[Check]) -> Table:
    table = Table(title="predicted, then measured", title_justify="left")
    for column in (
        "memory",
        "experts",
        "hits predicted",
        "measured",
        "tokens/s",
        "measured",
        "ratio",
    ):
        table.add_column(column, justify="right")
    for c in checks:
        table.add_row(
            format_bytes(c.predicted.memory_bytes),
            f"{c.predicted.share:.0%}",
            f"{c.predicted.hit_rate:.1%}",
            f"{c.hit_rate:.1%}",
            f"{c.predicted.tokens_per_s:.2f}",
            f"{c.tokens_per_s:.2f} ({c.slowest:.2f} - {c.fastest:.2f})",
            f"{c.ratio:.2f}",
        )
    return table


_FEWEST_TOKENS, _MOST_TOKENS = 128, 1024


@with_options(only=("memory", "max_context", "max_sequences"))
def plan(
    pack: PackArgument,
    *,
    settings: Settings,
    text: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Text like what the model will work on, UTF-8; default: a built-in page.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1.0, max=86_400, metavar="X", help="How long to measure, about.")
    ] = 10.0,
    check: Annotated[
        bool, typer.Option("--check", help="Then decode at three budgets and compare.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Predict speed and hit rate for every budget, and recommend settings.

    Measures the disk, memory and a short decode on this machine. Where experts are needed comes
    from the pack's calibration if it has one, else from routing the text. How many reads at the
    same time are best is remembered for later openings.

    Examples:
      adapmoe plan mixtral.adapmoe --memory 12GiB
      adapmoe plan mixtral.adapmoe --memory 12GiB --text notes.txt --check
      adapmoe plan mixtral.adapmoe --max-sequences 4 --json
    """
    errors = console(stderr=True)
    with usage_errors():
        # `not` also refuses nan, which typer lets through.
        if not 1 <= seconds <= 86_400:
            raise ValueError(f"--seconds must be from 1 to 86400, not {seconds}")
        content = SAMPLE_TEXT if text is None else read_text(text)
        facts = CalibrationFacts.of(pack)
        _check_context(pack, settings.max_context)
        measuring = replace(settings, prefetch=0, warm_restart=False)
        with LLM(pack, **vars(measuring)) as llm:
            ids, unseen = _token_ids(llm, content)
            with errors.status("measuring") as status:
                measured = measure(
                    llm, ids, seconds=seconds, on_phase=lambda name: status.update(f"{name} ...")
                )
                remember(pack, measured.probe)
                trace, source = _routing(llm, measured, facts, ids, seconds)
            found = make_plan(measured, trace, source, facts.next_layer if facts else None)
    checks = _check(pack, found, unseen, settings, seconds, errors) if check else []
    if as_json:
        typer.echo(json.dumps(_report(found, measured, checks), allow_nan=False))
    else:
        print_plan(found, measured, checks)


def _check_context(pack: Path, max_context: int) -> None:
    if max_context == 1:
        raise ValueError("--max-context must be at least 2: planning decodes after a prompt")
    positions = Manifest.read(pack).config.max_position_embeddings
    if positions < 2:
        raise PackError(
            f"{pack}: the model has {positions} position (max_position_embeddings); planning "
            "decodes after a prompt, which needs 2"
        )


def _token_ids(llm: LLM, content: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What the plan is made from, and as much again for the check."""
    ids = as_token_ids(llm.tokenizer.encode(content), llm.vocab_size)
    if len(ids) < _FEWEST_TOKENS:
        raise ValueError(
            f"the text has {len(ids)} tokens; at least {_FEWEST_TOKENS} are needed to plan with: "
            "give a longer one with --text"
        )
    half = min(len(ids) // 2, _MOST_TOKENS)
    return ids[:half], ids[half : 2 * half]


def _routing(
    llm: LLM,
    measured: Measurements,
    facts: CalibrationFacts | None,
    ids: NDArray[np.int32],
    seconds: float,
) -> tuple[Trace, str]:
    size = measured.geometry
    if facts is not None:
        return sample_from_statistics(size, facts.frequency, facts.overlap), "calibration.json"
    return sample_from_text(llm, size, ids, seconds=seconds), "text"


def _check(
    pack: Path,
    found: Plan,
    ids: NDArray[np.int32],
    settings: Settings,
    seconds: float,
    errors: Console,
) -> list[Check]:
    best = found.recommended
    with (
        errors.status("decoding to check ..."),
        LLM(
            pack,
            found.memory_bytes,
            prefetch=0,  # as predicted
            warm_restart=False,
            max_context=settings.max_context,
            max_sequences=settings.max_sequences,
            policy=best["policy"],
            read_depth=best["read_depth"],
            request_bytes=best["request_bytes"],
        ) as llm,
    ):
        return check_plan(llm, found, ids, seconds=seconds)


def _report(found: Plan, measured: Measurements, checks: list[Check]) -> dict[str, Any]:
    report = {**found.as_dict(), "measured": measured.as_dict()}
    if checks:
        report["check"] = [
            {
                "memory_bytes": c.predicted.memory_bytes,
                "predicted_tokens_per_s": c.predicted.tokens_per_s,
                "measured_tokens_per_s": c.tokens_per_s,
                "measured_range": [c.slowest, c.fastest],
                "ratio": c.ratio,
                "predicted_hit_rate": c.predicted.hit_rate,
                "measured_hit_rate": c.hit_rate,
                "tokens": c.tokens,
            }
            for c in checks
        ]
    return report
