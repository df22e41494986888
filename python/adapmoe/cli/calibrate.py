# SPDX-License-Identifier: Apache-2.0
"""`adapmoe calibrate`."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from adapmoe.calibration.calibrate import Settings as HowToCalibrate
from adapmoe.calibration.calibrate import calibrate
from adapmoe.cli.failures import usage_errors
from adapmoe.cli.options import JsonOption, PackArgument, with_options
from adapmoe.cli.output import console
from adapmoe.machine.files import check_writable
from adapmoe.pack.calibration import FILE, Calibration, Gating, Threshold
from adapmoe.settings import Settings
from adapmoe.units import format_bytes, parse_percent


@with_options(only=("memory", "threads"))
def calibrate_pack(
    pack: PackArgument,
    *,
    text: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Text like that which the model will see, UTF-8.",
            show_default=False,
        ),
    ],
    method: Annotated[
        str, typer.Option(help="direct, or fisher (the `calibrate` extra and --checkpoint).")
    ] = "direct",
    checkpoint: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="For fisher: what the pack was made from."),
    ] = None,
    max_perplexity_increase: Annotated[
        str, typer.Option(metavar="PERCENT", help="How much quality gating may cost.")
    ] = "1%",
    windows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Windows of 256 tokens to use. Default: as many as take about four minutes.",
            show_default=False,
        ),
    ] = None,
    residency_at: Annotated[
        str,
        typer.Option(
            metavar="PERCENT",
            help="Share of experts resident while gating by residency is measured; off skips it.",
        ),
    ] = "50%",
    settings: Settings,
    as_json: JsonOption = False,
) -> None:
    """Measure what a model can do without, and write calibration.json into the pack.

    Examples:
      adapmoe calibrate mixtral.adapmoe --text notes.txt --max-perplexity-increase 0.5%
      adapmoe calibrate mixtral.adapmoe --text notes.txt --method fisher --checkpoint Mixtral-8x7B
    """
    with usage_errors():
        if pack.is_dir():
            check_writable(pack / FILE)  # not after hours
        how = HowToCalibrate(
            method=method,
            max_perplexity_increase=parse_percent(max_perplexity_increase),
            windows=windows,
            memory=settings.memory,
            threads=settings.threads,
            memory_fraction=None if residency_at == "off" else parse_percent(residency_at),
            checkpoint=checkpoint,
        )
        with _Bars() as bars:
            found = calibrate(pack, text, how, bars)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found, str_keys=True), allow_nan=False))
    else:
        _print(found)


class _Bars(Progress):
    """One bar per kind of measurement."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        super().__init__(*columns, TimeRemainingColumn(), console=console(stderr=True))
        self._bars: dict[str, Any] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        """Move the bar of this name."""
        if name not in self._bars:
            self._bars[name] = self.add_task(name)
        self.update(self._bars[name], completed=done, total=total)


def _print(found: Calibration) -> None:
    out = console()
    methods, gating, ahead = found.sensitivity, found.gating, found.predictor.as_is
    table = Table("layer", *(f"s, {name}" for name in sorted(methods)), "single expert")
    for depth in ahead:
        table.add_column(f"foreseen {depth} ahead", justify="right")
    for layer, single in enumerate(found.single_ratio):
        values = (f"{methods[name].values[layer]:.4g}" for name in sorted(methods))
        rates = ("" if (rate := rows[layer]) is None else f"{rate:.1%}" for rows in ahead.values())
        table.add_row(str(layer), *values, f"{single:.1%}", *rates)
    out.print(table)
    if found.rank_correlation is not None:
        out.print(f"rank correlation of the methods: {found.rank_correlation:.3f}")
    first = found.first_layer_gate
    out.print(
        f"layer 0 foreseen from the last hidden state: {first.accuracy:.1%} "
        f"(always the most frequent: {first.accuracy_of_most_frequent:.1%}); by its own router "
        f"on the token's embedding: {first.accuracy_of_router_on_embedding:.1%}"
    )
    for mode in ("sensitivity", "residency"):
        threshold = gating.threshold(mode)
        if threshold is not None:
            out.print(_verdict(mode, threshold, gating))


def _verdict(mode: str, found: Threshold, gating: Gating) -> str:
    limit = gating.max_perplexity_increase
    if not found.pays:
        return (
            f"gating={mode} does not pay: within +{limit:.2%} perplexity it would save "
            f"{found.activations_saved:.1%} of the expert activations"
        )
    text = (
        f"gating={mode}: T = {found.threshold:.4g}, {found.gated_steps:.1%} of the steps "
        f"leave experts out, {found.activations_saved:.1%} fewer activations, perplexity "
        f"+{found.perplexity_increase:.2%} (at most +{found.perplexity_increase_bound:.2%})"
    )
    if found.bytes_per_token is not None and found.bytes_per_token_without is not None:
        text += (
            f"; with {gating.memory_fraction:.0%} of the experts resident it reads "
            f"{format_bytes(round(found.bytes_per_token))} per token "
            f"instead of {format_bytes(round(found.bytes_per_token_without))}"
        )
    return text
