# SPDX-License-Identifier: Apache-2.0
"""A plan as tables for people."""

from rich.console import Console
from rich.table import Table

from adapmoe.planning.check import Check
from adapmoe.planning.measure import Measurements
from adapmoe.planning.plan import Plan, Prediction
from adapmoe.units import format_bytes


def print_plan(found: Plan, measured: Measurements, checks: list[Check]) -> None:
    """Print tables to stdout: the machine, the curve, the settings, and the checks if any."""
    console = Console()
    facts = {
        "floor": f"{format_bytes(found.floor_bytes)}, the least that can run",
        "one token's experts": format_bytes(found.cycle_bytes),
        "everything resident": format_bytes(found.everything_bytes),
        "disk": f"{measured.disk.bytes_per_s / 1e9:.2f} GB/s in random tiles, "
        f"{measured.disk.readers} readers",
        "memory": f"{measured.memory_bytes_per_s / 1e9:.1f} GB/s, so at most "
        f"{measured.memory_bytes_per_s / measured.token_bytes:.1f} tokens/s",
        "routing from": found.routing,
    }
    table = Table(title="this pack on this machine", title_justify="left", show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    console.print(table, _curve_table(found))
    settings = Table(title="recommended", title_justify="left", show_header=False)
    for name, value in found.recommended.items():
        shown = format_bytes(value) if name == "memory" else str(value)
        settings.add_row(name, shown, found.reasons[name])
    console.print(settings)
    if checks:
        console.print(_check_table(checks))
    for warning in found.warnings:
        console.print(f"warning: {warning}", style="yellow")


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
