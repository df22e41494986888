# SPDX-License-Identifier: Apache-2.0
"""`adapmoe verify`."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from adapmoe.cli.failures import USAGE_ERROR, fail
from adapmoe.cli.options import PackArgument
from adapmoe.cli.output import console
from adapmoe.errors import AdapmoeError
from adapmoe.pack.manifest import Manifest
from adapmoe.pack.verify import verify_pack


def verify(
    pack: PackArgument,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The checkpoint that the pack was made from: compare the weights too "
            "(needs the `export` extra)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read a whole pack and compare it with its checksums.

    Example: adapmoe verify mixtral.adapmoe --checkpoint Mixtral-8x7B-v0.1
    """
    report: dict[str, Any] = {"pack": str(pack), "ok": True}
    try:
        with _progress_bar() as bar:
            report |= _files(verify_pack(pack, _Task(bar, "checksums")))
            if checkpoint is not None:
                report["weights"] = _compare(pack, checkpoint, _Task(bar, "weights"))
    except AdapmoeError as error:
        if as_json:
            print(
                json.dumps({"pack": str(pack), "ok": False, "error": str(error)}, allow_nan=False)
            )
        raise
    if as_json:
        print(json.dumps(report, allow_nan=False))
    else:
        _print_tables(report)


def _files(manifest: Manifest) -> dict[str, Any]:
    experts = manifest.experts
    files = msgspec.to_builtins(manifest.files)
    return {"files": files, "tiles": len(experts.crc32c) * experts.tiles}


def _compare(pack: Path, checkpoint: Path, progress: "_Task") -> dict[str, Any]:
    try:
        from adapmoe_export.numerics import compare_weights
    except ModuleNotFoundError as error:
        fail(
            f"--checkpoint needs the Python package {error.name!r}, which is missing: "
            "pip install 'adapmoe[export]'"
        )
        raise typer.Exit(USAGE_ERROR) from error
    return compare_weights(pack, checkpoint, progress)


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )


class _Task:
    """A row of the progress bar, as the function (bytes done, bytes in all)."""

    def __init__(self, bar: Progress, name: str) -> None:
        self._bar = bar
        self._task = bar.add_task(name, total=None)

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)


def _print_tables(report: dict[str, Any]) -> None:
    out = console()
    files = Table("file", "SHA-256", title=f"{report['pack']} is intact", title_justify="left")
    files.add_column("bytes", justify="right")
    for name, file in sorted(report["files"].items()):
        files.add_row(name, "matches", f"{file['bytes']:,}")
    out.print(files, f"CRC-32C of {report['tiles']:,} tiles matches")
    if "weights" not in report:
        return
    table = Table("tensors", title="relative RMSE to the checkpoint", title_justify="left")
    for column in ("measured", "manifest", "worst tensor's"):
        table.add_column(column, justify="right")
    table.add_column("worst tensor", overflow="fold")
    for kind, row in report["weights"].items():
        numbers = (f"{row[key]:.5f}" for key in ("relative_rmse", "recorded", "worst_rmse"))
        table.add_row(kind, *numbers, row["worst_tensor"])
    out.print(table)
