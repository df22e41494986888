# SPDX-License-Identifier: Apache-2.0
"""Draws every figure that there is data for, and a page that shows them."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from adapmoe.errors import TraceError
from adapmoe.machine.files import replace_file
from adapmoe.opening.allocation import CalibrationFacts
from adapmoe.pack.manifest import Manifest, manifest_sha256
from adapmoe.report.figures import draw_accuracy, draw_heat_map, draw_hit_rates
from adapmoe.report.quality import draw_quality, measure_quality
from adapmoe.tracing.trace import Trace


@dataclass(frozen=True)
class Drawn:
    """One figure, or why there is none: then `file` is empty."""

    file: str
    caption: str


def draw_report(
    pack: Path,
    traces: list[Path],
    out: Path,
    text: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Drawn]:
    """Write PNG files and `index.html` into `out`.

    Args:
        pack: its directory; calibrated for what comes from calibration.
        traces: recorded with this pack.
        out: a directory, made if it is missing.
        text: measures quality against speed; None leaves that out.
        on_progress: called while measuring.

    Raises:
        TraceError: a trace is damaged, or of another pack.
        CalibrationError: calibration.json is of another pack or lacks something.
        OSError: `out` cannot be written to.
    """
    name = pack.name.removesuffix(".adapmoe")
    facts = CalibrationFacts.of(pack)
    recorded = [(path, _load(path, pack)) for path in traces]
    out.mkdir(parents=True, exist_ok=True)
    drawn = []
    for path, trace in recorded:
        drawn += _draw_trace(out, path.stem, trace)
    if not recorded:
        drawn.append(Drawn("", "Hit rates: give a recorded --trace FILE"))
    top_k = Manifest.read(pack).router.top_k
    drawn += _draw_calibration(out, name, top_k, facts)
    if facts is not None and text is not None:
        points, chosen = measure_quality(pack, text, on_progress=on_progress)
        draw_quality(out / "quality.png", points, chosen, name)
        drawn.append(Drawn("quality.png", "Quality against speed, measured now"))
    else:
        drawn.append(Drawn("", "Quality against speed: needs calibration and --text FILE"))
    replace_file(out / "index.html", _page(name, drawn).encode())
    return drawn


def _load(path: Path, pack: Path) -> Trace:
    trace = Trace.load(path)
    if trace.geometry.manifest_sha256 != manifest_sha256(pack):
        raise TraceError(f"{path}: was recorded with another pack than {pack}")
    if not trace.decode_only().visits:
        raise TraceError(f"{path}: holds no decoded token; record one with `adapmoe run --trace`")
    return trace


def _draw_trace(out: Path, stem: str, recorded: Trace) -> list[Drawn]:
    """Decoding alone: a prompt needs most experts anyway."""
    trace = recorded.decode_only()
    draw_hit_rates(out / f"{stem}.hit_rate.png", trace, stem)
    draw_heat_map(out / f"{stem}.experts.png", trace.counts() / trace.passes, stem)
    passes = f"{trace.passes} decoded tokens"
    return [
        Drawn(f"{stem}.hit_rate.png", f"Hit rate by budget and policy, {passes}"),
        Drawn(f"{stem}.experts.png", f"Which experts are needed, {passes}"),
    ]


def _draw_calibration(
    out: Path, name: str, top_k: int, facts: CalibrationFacts | None
) -> list[Drawn]:
    if facts is None:
        return [Drawn("", "Predictor accuracy: the pack has no calibration.json yet")]
    draw_heat_map(out / "experts.png", facts.frequency, f"{name}, calibration text")
    draw_accuracy(out / "accuracy.png", facts, top_k, name)
    return [
        Drawn("experts.png", "Which experts the calibration text needs"),
        Drawn("accuracy.png", "Predictor accuracy by layer"),
    ]


def _page(name: str, drawn: list[Drawn]) -> str:
    parts = [
        f'<figure><img src="{escape(d.file)}" alt="{escape(d.caption)}">'
        f"<figcaption>{escape(d.caption)}</figcaption></figure>"
        if d.file
        else f"<p>{escape(d.caption)}</p>"
        for d in drawn
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(name)}</title>\n"
        "<style>body{font-family:sans-serif;max-width:62em;margin:2em auto}"
        "img{max-width:100%}figure{margin:2em 0}</style></head>\n"
        f"<body><h1>{escape(name)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
