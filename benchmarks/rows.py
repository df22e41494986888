# SPDX-License-Identifier: Apache-2.0
"""What the pairing measures: a row of its table is some work, under some limit, for each side."""

from dataclasses import dataclass

OURS, PEER = "ours", "llama.cpp"


@dataclass(frozen=True)
class Side:
    """Who does the work; the first side of a row is compared with each of the others."""

    name: str
    peer: bool = False
    limited: bool = True  # where the row has a limit
    gated: bool = False


@dataclass(frozen=True)
class Row:
    """`task` is one of timed_run; `fraction` of the model's bytes is the limit; None: none."""

    name: str
    task: str
    fraction: float | None
    bar: str
    prompt: int | None = None  # tokens; None: that of the command line
    sides: tuple[Side, ...] = (Side(OURS), Side(PEER, peer=True))


_GATED = (Side(OURS, gated=True), Side("ours, lossless"), Side(PEER, peer=True))
_PREFILL_LIMITED = (Side(OURS), Side("ours, resident", limited=False), Side(PEER, peer=True))

AGREEMENT = "agreement"
ROWS = {
    row.name: row
    for row in (
        Row("decode-resident", "decode", None, "1.0x, aim 1.10x and 92 % of the bound"),
        Row("prefill-128", "prefill", None, "2x, aim 4x", 128),
        Row("prefill-512", "prefill", None, "2x, aim 4x", 512),
        Row("decode-75", "decode", 0.75, "1.0x and 85 % of the bound, aim 90 %"),
        Row("decode-50", "decode", 0.50, "1.5x and 85 % of the bound, aim 90 %"),
        Row("decode-25", "decode", 0.25, "2.1x and 85 % of the bound, aim 90 %"),
        Row("gating-50", "decode", 0.50, "1.25x lossless, aim 1.6x", None, _GATED),
        Row("prefill-512-50", "prefill", 0.50, "3x, aim 90 % of resident", 512, _PREFILL_LIMITED),
        Row("first-token-50", "first_token", 0.50, "less than 1x the time", 16),
    )
}
