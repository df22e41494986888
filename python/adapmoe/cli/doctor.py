# SPDX-License-Identifier: Apache-2.0
"""`adapmoe doctor`: what this machine offers and what stands in the way."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adapmoe.cli.failures import RUNTIME_ERROR, exit_codes
from adapmoe.doctor.examine import examine
from adapmoe.doctor.machine import Finding, has_problem

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}
_FILE_WIDTH = 110  # where there is no terminal


def doctor(
    pack: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PACK]",
            help="Try reading here. Default: the current folder.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at this machine: driver, memory, disk, clocks, and what this build has.

    Ends with 0, or with 1 if there is a problem: something cannot run. Notes and warnings do not
    count. Needs no root, and changes nothing; how many reads at the same time are best for PACK is
    remembered for later openings.

    Examples:
      adapmoe doctor
      adapmoe doctor mixtral.adapmoe --json
    """
    findings = examine(pack)
    problem = has_problem(findings)
    if as_json:
        rows = [finding.as_dict() for finding in findings]
        typer.echo(json.dumps({"ok": not problem, "findings": rows}, allow_nan=False))
    else:
        _print_table(findings)
    if problem:
        raise typer.Exit(RUNTIME_ERROR)


def _print_table(findings: Sequence[Finding]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    table = Table(show_header=False, padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(
            finding.topic, Text(finding.status, _STYLES[finding.status]), _describe(finding)
        )
    counts = (f"{_count(findings, status)} {status}" for status in _STYLES)
    console.print(table, Text(", ".join(counts)))


def _count(findings: Sequence[Finding], status: str) -> int:
    return sum(finding.status == status for finding in findings)


def _describe(finding: Finding) -> Text:
    text = Text(finding.seen)
    if finding.status != "ok":
        text.append(f"\n{finding.why}", "dim")
        if finding.remedy:
            text.append("\nremedy: ", "bold").append(finding.remedy)
    return text


if __name__ == "__main__":  # works even where the compiled core, and so `adapmoe`, does not
    with exit_codes():
        typer.run(doctor)
