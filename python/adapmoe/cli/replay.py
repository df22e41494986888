# SPDX-License-Identifier: Apache-2.0
"""`adapmoe replay`: recorded routing through the eviction policies."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from adapmoe.cli.failures import usage_errors
from adapmoe.cli.options import JsonOption
from adapmoe.cli.output import console
from adapmoe.opening.allocation import CalibrationFacts
from adapmoe.tracing.replay import ALLOCATIONS, POLICIES, LayerFacts, ReplayRow, recommend, replay
from adapmoe.tracing.trace import Trace


def replay_trace(
    trace: Annotated[
        Path,
        typer.Argument(metavar="TRACE", help="A file that --trace wrote.", show_default=False),
    ],
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="Room for experts, several times if wanted: 50% of all, 16-experts, or a memory "
            "ceiling such as 12GiB. Default: 25%, 50% and 75%.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(POLICIES)}. Default: all.", show_default=False),
    ] = None,
    allocation: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(ALLOCATIONS)}. Default: all that can be.", show_default=False
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="PACK", help="A calibrated pack, for --allocation dp.", show_default=False
        ),
    ] = None,
    decode_only: Annotated[
        bool, typer.Option("--decode-only", help="Leave the passes of prompts out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare eviction policies on recorded routing: hit rates beside Belady's optimum.

    Examples:
      adapmoe run mixtral.adapmoe -p "Once upon a time" -n 200 --trace story.npz
      adapmoe replay story.npz --budget 25% --budget 50% --budget 12GiB
      adapmoe replay story.npz --policy lru --allocation dp --calibration mixtral.adapmoe --json
    """
    with usage_errors():
        recorded = Trace.load(trace)
        if decode_only:
            recorded = recorded.decode_only()
        if not recorded.visits:
            raise ValueError(f"{trace}: the trace holds no passes to replay")
        facts = _layer_facts(calibration)
        allocations = allocation or (ALLOCATIONS if facts else ALLOCATIONS[:2])
        rows = replay(
            recorded, budget or ("25%", "50%", "75%"), policy or POLICIES, allocations, facts
        )
    best = recommend(rows)
    if as_json:
        typer.echo(json.dumps(_report(recorded, rows, best), allow_nan=False))
    else:
        _print_table(recorded, rows, best)


def _layer_facts(calibration: Path | None) -> LayerFacts | None:
    if calibration is None:
        return None
    facts = CalibrationFacts.of(calibration)
    if facts is None:
        raise ValueError(f"{calibration}: has no calibration.json; run `adapmoe calibrate` first")
    return facts.layers


def _report(trace: Trace, rows: list[ReplayRow], best: tuple[str, str]) -> dict[str, Any]:
    return {
        "passes": trace.passes,
        "experts": trace.geometry.experts,
        "cycle": trace.geometry.cycle,
        "rows": [
            {
                **vars(row),
                "hit_rate": row.hit_rate,
                "belady_hit_rate": row.belady_hit_rate,
                "share_of_belady": row.share_of_belady,
            }
            for row in rows
        ],
        "recommended": {"policy": best[0], "allocation": best[1]},
    }


def _print_table(trace: Trace, rows: list[ReplayRow], best: tuple[str, str]) -> None:
    size = trace.geometry
    title = (
        f"{trace.passes} passes; {size.experts} experts, of which one token needs {size.cycle}; "
        "* recommended"
    )
    table = Table("", "budget", "experts", title=title, title_justify="left")
    table.add_column("policy", no_wrap=True)
    table.add_column("allocation", no_wrap=True)
    for column in ("hit rate", "Belady", "of Belady"):
        table.add_column(column, justify="right")
    budget = None
    for row in rows:
        if budget not in (None, row.budget):
            table.add_section()
        table.add_row(
            "*" if (row.policy, row.allocation) == best else "",
            "" if row.budget == budget else row.budget,
            "" if row.budget == budget else str(row.capacity),
            row.policy,
            row.allocation,
            f"{row.hit_rate:.1%}",
            f"{row.belady_hit_rate:.1%}",
            f"{row.share_of_belady:.1%}",
        )
        budget = row.budget
    console().print(table)
