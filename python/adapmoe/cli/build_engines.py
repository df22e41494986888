# SPDX-License-Identifier: Apache-2.0
"""`adapmoe build-engines`."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adapmoe.cli.failures import usage_errors
from adapmoe.cli.options import JsonOption, PackArgument
from adapmoe.cli.output import console
from adapmoe.tensorrt.build import BuildSummary, build_engines
from adapmoe.tensorrt.validate import check_can_validate, validate_engines
from adapmoe.units import format_bytes, parse_memory


def build_engines_of_pack(
    pack: PackArgument,
    onnx_dir: Annotated[
        Path | None,
        typer.Option(help="Where the ONNX models are. Default: PACK/onnx.", show_default=False),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=0, help="Builds at a time. 0: one per core as memory allows, one on a device."
        ),
    ] = 0,
    builder: Annotated[
        str, typer.Option(help="tensorrt, tensorrt_rtx, or auto: the first that can build here.")
    ] = "auto",
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="sm_NN",
            help="Compute capability to build for, such as sm_86; may be repeated. Default: this "
            "device (tensorrt), sm_80 and later (tensorrt_rtx).",
            show_default=False,
        ),
    ] = None,
    max_rss: Annotated[
        str,
        typer.Option(metavar="SIZE", help="End a build that takes more memory; auto: by model."),
    ] = "auto",
    validate: Annotated[
        bool,
        typer.Option("--validate", help="Run every engine on the GPU and compare its results."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build a TensorRT engine for every expert from the ONNX models of a pack.

    Run the same command again to go on with a build that was interrupted.

    Example: adapmoe build-engines mixtral.adapmoe --builder tensorrt_rtx --target sm_86
    """
    with usage_errors():
        limit = parse_memory(max_rss, "--max-rss")
    if validate:
        check_can_validate()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console(stderr=True), transient=True)
    worst = None
    try:
        with bar:
            summary = build_engines(
                pack,
                builder=builder,
                targets=target or (),
                onnx_folder=onnx_dir,
                jobs=jobs,
                max_rss_bytes=limit,
                progress=_row(bar, "building engines"),
            )
            if validate:
                worst = validate_engines(pack, summary.tag, limit, _row(bar, "validating engines"))
    except KeyboardInterrupt:
        text = "interrupted; what is finished is recorded: run the same command again to go on"
        typer.echo(text, err=True)
        raise
    _report(summary, worst, as_json)


def _row(bar: Progress, name: str) -> Callable[[int, int], None]:
    task = bar.add_task(name, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


def _report(summary: BuildSummary, worst: float | None, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(summary) | {"worst_relative_l2": worst}, allow_nan=False))
        return
    lines = [
        f"{summary.folder}: {summary.engines} engines by {summary.library} {summary.version}, "
        f"{summary.bytes:,} bytes" + (f"; {summary.kept} were kept" if summary.kept else ""),
        f"{summary.seconds:.1f} s of building, at most {format_bytes(summary.peak_rss_bytes)} of "
        "memory for one",
    ]
    if worst is not None:
        lines.append(f"validated on the device: relative L2 at most {worst:.2e}")
    console().print("\n".join(lines), soft_wrap=True, highlight=False)
