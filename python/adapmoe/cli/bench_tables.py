# SPDX-License-Identifier: Apache-2.0
"""The tables of `adapmoe bench`."""

from rich import box
from rich.console import Console
from rich.table import Table

from adapmoe.bench.bench import BenchResult
from adapmoe.bench.summary import VariantSummary
from adapmoe.bench.variants import BASE
from adapmoe.units import format_bytes

_FILE_WIDTH = 132  # where there is no terminal


def table_console() -> Console:
    """Of stdout, wide enough for the tables where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def print_tables(result: BenchResult) -> None:
    """Print to stdout."""
    console = table_console()
    base = result.variants[BASE]
    console.print(_base_table(result, base))
    if len(result.variants) > 1:
        console.print(_ablation_table(result))
    if not result.direct:
        console.print("the file system refuses O_DIRECT: the disk's speed may be memory's")


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
