# SPDX-License-Identifier: Apache-2.0
"""`adapmoe report`: figures of a pack's calibration and recorded routing."""

from pathlib import Path
from typing import Annotated

import typer

from adapmoe.cli.failures import USAGE_ERROR, fail, usage_errors
from adapmoe.cli.options import PackArgument
from adapmoe.cli.output import console
from adapmoe.machine.files import read_text


def report(
    pack: PackArgument,
    trace: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file that --trace wrote; several times if wanted.", show_default=False
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Measure quality against speed on this text, UTF-8.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Directory for the PNG files and index.html.")
    ] = Path("adapmoe-report"),
) -> None:
    """Draw hit rates, the use of experts, predictor accuracy, and quality against speed.

    Needs the `report` extra, and an `adapmoe calibrate`d pack for all but the traces.

    Examples:
      adapmoe run mixtral.adapmoe --prompt-file story.txt -n 500 --trace story.npz
      adapmoe report mixtral.adapmoe --trace story.npz --text evaluation.txt --out figures
    """
    try:
        from adapmoe.report.page import draw_report
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing == "adapmoe":
            raise  # a broken installation, not a missing extra
        fail(
            f"figures need the Python package {missing!r}, which is missing: "
            "pip install 'adapmoe[report]'"
        )
        raise typer.Exit(USAGE_ERROR) from error
    with usage_errors(), console(stderr=True).status("drawing ...") as status:
        content = None if text is None else read_text(text)
        drawn = draw_report(
            pack,
            trace or [],
            out,
            content,
            lambda done, total: status.update(f"threshold {done} of {total} ..."),
        )
    for figure in drawn:
        typer.echo(f"{out / figure.file}: {figure.caption}" if figure.file else figure.caption)
    typer.echo(f"{out / 'index.html'} shows all of them")
