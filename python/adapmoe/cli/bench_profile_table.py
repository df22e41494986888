# SPDX-License-Identifier: Apache-2.0
"""The table of `adapmoe bench --profile`."""

from rich import box
from rich.table import Table

from adapmoe.bench.profile import Part, PhaseProfile
from adapmoe.cli.bench_tables import table_console


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
    console = table_console()
    console.print(table)
    shares = phase.bandwidth_shares(memory, disk)
    console.print(
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
