# SPDX-License-Identifier: Apache-2.0
"""`adapmoe export`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from adapmoe_export.architecture import Json
from adapmoe_export.destination import partial_path
from adapmoe_export.errors import ExportError
from adapmoe_export.onnx_export import OnnxSummary, export_onnx, import_onnx
from adapmoe_export.pack_writer import export_pack


class Dtype(str, Enum):
    """Storage of a matrix."""

    int4 = "int4"
    int8 = "int8"
    f16 = "f16"
    f32 = "f32"


def export(
    source: Annotated[
        Path,
        typer.Argument(help="Hugging Face Mixtral directory; with --onnx and no OUT, a pack."),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(help="The pack to write, such as mixtral.adapmoe.", show_default=False),
    ] = None,
    experts: Annotated[Dtype, typer.Option(help="Dtype of the experts.")] = Dtype.int4,
    dense: Annotated[Dtype, typer.Option(help="Dtype of the other matrices.")] = Dtype.int8,
    group_size: Annotated[int, typer.Option(help="Weights per scale: 32, 64 or 128.")] = 32,
    tile_width: Annotated[str, typer.Option(help="Columns per tile, or 'auto'.")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing pack.")
    ] = False,
    threads: Annotated[int, typer.Option(help="0: one per core.", min=0)] = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of resuming an interrupted export.")
    ] = False,
    onnx: Annotated[
        bool,
        typer.Option(
            "--onnx", help="Also write one ONNX model per expert (needs the `onnx` extra)."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Convert a Hugging Face checkpoint into a pack.

    Run the same command again to resume an interrupted export.

    Example: adapmoe export Mixtral-8x7B-v0.1 mixtral.adapmoe --experts int4

    With --onnx and no OUT, SOURCE is a pack that gets its ONNX models.

    Example: adapmoe export mixtral.adapmoe --onnx
    """
    if onnx:
        import_onnx()  # fail now rather than after an hour
    if out is None:
        _export_onnx_only(source, onnx, as_json)
        return
    with _interrupt_message(out), _progress_bar() as bar:
        task = bar.add_task("export", total=None)
        manifest = export_pack(
            source,
            out,
            experts=experts.value,
            dense=dense.value,
            group_size=group_size,
            tile_width=_parse_width(tile_width),
            overwrite=overwrite,
            threads=threads,
            fresh=fresh,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            notice=lambda text: bar.console.print(text, highlight=False, soft_wrap=True),
        )
    models = _write_models(out) if onnx else None
    if as_json:
        print(json.dumps(_summary(out, manifest) | _onnx_json(models), allow_nan=False))
    else:
        _print_tables(out, manifest)
        _print_models(models)


def _export_onnx_only(pack: Path, onnx: bool, as_json: bool) -> None:
    if not onnx:
        raise ExportError(f"give OUT, the pack to write: adapmoe export {pack} OUT")
    if not (pack / "manifest.json").is_file():
        raise ExportError(
            f"{pack}: is not a pack, so OUT must be given: adapmoe export {pack} OUT --onnx"
        )
    models = _write_models(pack)
    if as_json:
        print(json.dumps({"pack": str(pack)} | _onnx_json(models), allow_nan=False))
    else:
        _print_models(models)


def _console(*, stderr: bool = False) -> Console:
    """Shows names as they are: rich would obey [words in brackets]."""
    return Console(stderr=stderr, markup=False, emoji=False)


def _parse_width(text: str) -> int | None:
    if text == "auto":
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ExportError(f"tile width {text[:40]!r}: give 'auto' or a number of columns")
    return int(text)


@contextmanager
def _interrupt_message(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        partial = partial_path(out)
        if partial.is_dir():
            text = f"{partial} keeps what is finished: run the same command again to resume, "
            text += "or with --fresh to start over"
        else:
            text = "nothing was finished, and nothing is left behind"
        typer.echo(f"interrupted; {text}", err=True)
        raise


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("exporting"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=_console(stderr=True),
        transient=True,
    )


def _summary(out: Path, manifest: Json) -> Json:
    keys = ("files", "quantization", "quantization_error")
    geometry = {key: value for key, value in manifest["experts"].items() if key != "crc32c"}
    return {"pack": str(out), "experts": geometry} | {key: manifest[key] for key in keys}


def _print_tables(out: Path, manifest: Json) -> None:
    console = _console()
    files = Table("file", title=str(out), title_justify="left")
    files.add_column("bytes", justify="right")
    for name, file in sorted(manifest["files"].items()):
        files.add_row(name, f"{file['bytes']:,}")
    errors = Table("tensors", title="weight error", title_justify="left")
    errors.add_column("relative RMSE", justify="right")
    for kind, error in manifest["quantization_error"].items():
        errors.add_row(kind, f"{error['relative_rmse']:.5f}")
    console.print(files, errors)


def _write_models(pack: Path) -> OnnxSummary:
    """Export with a progress bar on stderr."""
    columns = (TextColumn("ONNX models"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=_console(stderr=True), transient=True) as bar:
            task = bar.add_task("onnx", total=None)
            return export_onnx(
                pack, progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
    except KeyboardInterrupt:
        typer.echo(
            f"interrupted; {pack} is complete, and the finished ONNX models are kept; resume "
            f"with: adapmoe export {pack} --onnx",
            err=True,
        )
        raise


def _onnx_json(models: OnnxSummary | None) -> Json:
    """For --json; nothing where no models were asked for."""
    return {} if models is None else {"onnx": asdict(models)}


def _print_models(models: OnnxSummary | None) -> None:
    """One line."""
    if models is not None:
        _console().print(
            f"{models.folder}: {models.models} ONNX models, {models.bytes:,} bytes"
            + (f"; {models.kept} were there already" if models.kept else ""),
            soft_wrap=True,
            highlight=False,
        )
