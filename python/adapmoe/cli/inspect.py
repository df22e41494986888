# SPDX-License-Identifier: Apache-2.0
"""`adapmoe inspect`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.table import Table

from adapmoe.cli.options import PackArgument
from adapmoe.cli.output import console
from adapmoe.pack.manifest import Experts, Manifest

if TYPE_CHECKING:
    from adapmoe.text.token_files import EndToken


def inspect(
    pack: PackArgument,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the manifest and the end tokens as JSON.")
    ] = False,
) -> None:
    """Check a pack's manifest and file sizes, and show what the pack holds.

    Example: adapmoe inspect mixtral.adapmoe
    """
    from adapmoe.text.token_files import read_end_tokens  # not for other verbs' help

    manifest = Manifest.read(pack)
    ends = read_end_tokens(pack)
    if as_json:
        content = manifest.as_json() | {"end_of_sequence": [end._asdict() for end in ends]}
        print(json.dumps(content, allow_nan=False))
        return
    errors = {kind: f"{rmse:.5f}" for kind, rmse in manifest.weight_errors.items()}
    console().print(
        _table(str(pack), _overview(manifest) | _end_row(manifest, ends)),
        _table("config", msgspec.structs.asdict(manifest.config)),
        _table("experts", _expert_rows(manifest.experts)),
        _table("files", {name: f"{f.bytes:,} bytes" for name, f in manifest.files.items()}),
        _table("relative RMSE of the weights", errors),
    )


def _table(title: str, rows: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _overview(manifest: Manifest) -> dict[str, Any]:
    router, stored = manifest.router, manifest.quantization
    rows = {
        "format": f"{manifest.format} {manifest.format_version}",
        "architecture": manifest.architecture,
        "router": f"{router.score}, top {router.top_k} of {manifest.config.num_local_experts}",
        "expert FFN": manifest.expert_ffn,
    }
    for role, matrix in (("experts", stored.experts), ("dense", stored.dense)):
        rows[f"{role} dtype"] = f"{matrix.dtype}, group size {matrix.group_size}"
    return rows


def _end_row(manifest: Manifest, ends: "list[EndToken]") -> dict[str, str]:
    """All tokens that end an answer, and who says so."""
    rows = manifest.config.vocab_size
    shown = []
    for end in ends:
        text = f" {end.text}" if end.text is not None else ""
        never = "" if 0 <= end.token_id < rows else "; no id of this model"
        shown.append(f"{end.token_id}{text} (from {', '.join(end.sources)}{never})")
    return {"end of sequence": ", ".join(shown) or "none: answers end at --max-tokens or --stop"}


def _expert_rows(experts: Experts) -> dict[str, Any]:
    return {
        "experts": f"{len(experts.crc32c)} of {experts.expert_bytes:,} bytes",
        "tiles per expert": experts.tiles,
        "tile": f"{experts.tile_width} columns, {experts.tile_bytes:,} bytes",
    }
