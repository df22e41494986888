# SPDX-License-Identifier: Apache-2.0
"""The pairs of a row as medians with their spread, and all rows as one table."""

import math
import statistics
from typing import Any

from rich.table import Table

from adapmoe.bench.bench import Spread
from benchmarks.bounds import Bounds, fraction_of_bound, fraction_of_token_bound
from benchmarks.rows import AGREEMENT, ROWS, Row

_FRACTIONS = {
    "fraction_of_bound": fraction_of_bound,
    "fraction_of_token_bound": fraction_of_token_bound,
}

Pair = dict[str, Any]  # {"bounds": Bounds as dict, side's name: report}


def summarize(row: Row, pairs: list[Pair], weight_bytes: int) -> dict[str, Any]:
    """{"sides": {name: {figure: spread}}, "ratios": {name: spread}, "bounds": {figure: spread}}."""
    figure = "first_token_s" if row.task == "first_token" else "tokens_per_s"
    ours = row.sides[0].name
    return {
        "bounds": {
            name: _spread([pair["bounds"][name] for pair in pairs])
            for name in ("memory_bytes_per_s", "disk_bytes_per_s")
        },
        "sides": {side.name: _side(row, side.name, pairs, weight_bytes) for side in row.sides},
        "ratios": {
            other.name: _spread([pair[ours][figure] / pair[other.name][figure] for pair in pairs])
            for other in row.sides[1:]
        },
    }


def _side(row: Row, name: str, pairs: list[Pair], weight_bytes: int) -> dict[str, Any]:
    reports = [pair[name] for pair in pairs]
    figures = ("tokens_per_s", "bytes_per_token", "first_token_s", "bytes_to_first_token", "open_s")
    summary: dict[str, Any] = {
        figure: _spread([report[figure] for report in reports])
        for figure in (*figures, "hit_rate", "stall_share", "largest_usage")
        if figure in reports[0]
    }
    if "belady_bytes" in reports[0]:
        summary |= _belady(row, reports)
    if row.task == "decode":
        nll = statistics.fmean(report["nll"] for report in reports)
        summary["perplexity"] = math.exp(nll)
        for figure, fraction in _FRACTIONS.items():
            summary[figure] = _spread(
                [
                    fraction(report, Bounds(**pair["bounds"]), weight_bytes)
                    for report, pair in zip(reports, pairs, strict=True)
                ]
            )
    return summary


def _belady(row: Row, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """What Belady's optimum would have read, and how many times that was read."""
    whole = row.task == "first_token"
    best = [report["belady_bytes"] / (1 if whole else report["tokens"]) for report in reports]
    figure = "bytes_to_first_token" if whole else "bytes_per_token"
    summary = {f"belady_{figure}": _spread(best)}
    if all(best):
        ratios = [report[figure] / least for report, least in zip(reports, best, strict=True)]
        summary["read_over_belady"] = _spread(ratios)
    return summary


def _spread(values: list[float]) -> dict[str, float]:
    return vars(Spread.of(values))


def table_of(results: dict[str, Any]) -> Table:
    """Every row that was measured, now or before."""
    table = Table(title="paired with llama.cpp: median (least - most)")
    for column in ("row", "side"):
        table.add_column(column)
    for column in ("tokens/s or s", "ratio", "MB read", "Belady's MB", "of the bound"):
        table.add_column(column, justify="right")
    table.add_column("token by token", justify="right")
    table.add_column("ppl", justify="right")
    table.add_column("bar")
    for name, row in ROWS.items():
        if name in results["rows"]:
            _add_row(table, row, results["rows"][name]["summary"])
    return table


def _add_row(table: Table, row: Row, summary: dict[str, Any]) -> None:
    for number, (name, side) in enumerate(summary["sides"].items()):
        speed = side.get("tokens_per_s") or side["first_token_s"]
        read = side.get("bytes_per_token") or side.get("bytes_to_first_token")
        best = side.get("belady_bytes_per_token") or side.get("belady_bytes_to_first_token")
        table.add_row(
            "" if number else row.name,
            name,
            _text(speed) + (" s" if row.task == "first_token" else ""),
            _text(summary["ratios"][name]) + "x" if number else "",
            _text(read, 1e6),
            _text(best, 1e6) if best else "",
            *(_text(side[figure]) if figure in side else "" for figure in _FRACTIONS),
            f"{side['perplexity']:.3f}" if "perplexity" in side else "",
            "" if number else row.bar,
            end_section=number + 1 == len(summary["sides"]),
        )


def _text(spread: dict[str, float], unit: float = 1.0) -> str:
    median, least, most = (_number(spread[name] / unit) for name in ("median", "least", "most"))
    return f"{median} ({least} - {most})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def agreement_text(results: dict[str, Any]) -> str:
    """One line; empty where it was not measured."""
    found = results["rows"].get(AGREEMENT)
    if found is None:
        return ""
    perplexity = ", ".join(f"{name} {value:.3f}" for name, value in found["perplexity"].items())
    return (
        f"over {found['tokens']} tokens: perplexity {perplexity}; the same experts "
        f"{found['same_experts']:.2%}, the same top token {found['same_top_token']:.2%}, RMS logit "
        f"difference {found['rms_logit_difference']:.3f} at a standard deviation of "
        f"{found['logit_standard_deviation']:.3f}"
    )
