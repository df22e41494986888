# SPDX-License-Identifier: Apache-2.0
"""What `adapmoe export --onnx` shows."""

from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adapmoe_export.architecture import Json
from adapmoe_export.onnx_export import OnnxSummary, export_onnx


def write_models(pack: Path) -> OnnxSummary:
    """Export with a progress bar on stderr."""
    columns = (TextColumn("ONNX models"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("onnx", total=None)
            return export_onnx(
                pack, progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
    except KeyboardInterrupt:
        typer.echo(
            f"interrupted; {pack} is complete, and the ONNX models that are finished are kept: to "
            f"go on, adapmoe export {pack} --onnx",
            err=True,
        )
        raise


def onnx_json(models: OnnxSummary | None) -> Json:
    """For --json; nothing where no models were asked for."""
    return {} if models is None else {"onnx": asdict(models)}


def print_models(models: OnnxSummary | None) -> None:
    """One line."""
    if models is not None:
        Console().print(
            f"{models.folder}: {models.models} ONNX models, {models.bytes:,} bytes"
            + (f"; {models.kept} were there already" if models.kept else ""),
            soft_wrap=True,
            highlight=False,
        )
