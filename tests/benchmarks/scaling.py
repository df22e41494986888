# SPDX-License-Identifier: Apache-2.0
"""Run as a program: what a decoded token costs as the work grows.

Usage:
  python -m benchmarks.scaling contexts PACK --sizes 128,1024,4096,16384
  python -m benchmarks.scaling batches PACK --sizes 1,2,4,8 [--experts-resident 0.5]
  python -m benchmarks.scaling layers PACK PACK PACK

Everything is resident unless --experts-resident says less. Medians over --tokens steps.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import adapmoe

_TEXT = Path(__file__).resolve().parents[1] / "text" / "evaluation.txt"
_WARM_UP = 8  # steps
_PROMPT = 64  # tokens before the measured ones, where the context is not what grows


@dataclass(frozen=True)
class Row:
    """Medians of one size; times in milliseconds."""

    size: str
    step_ms: float
    least_ms: float
    most_ms: float
    compute_ms: float
    tokens_per_s: float
    bytes_per_token: float
    experts_per_token: float


def text_ids(llm: adapmoe.LLM, count: int) -> list[int]:
    """Ids of the evaluation text, repeated where it ends."""
    ids = llm.tokenizer.encode(_TEXT.read_text(encoding="utf-8"))
    return (ids * (count // len(ids) + 1))[:count]


def measure(llm: adapmoe.LLM, sequences: list[adapmoe.Sequence], ids: list[int], size: str) -> Row:
    """Feed the ids round by round, a different piece of the text to every sequence."""
    rows = len(sequences)
    steps: list[tuple[float, Any]] = []
    for at in range(0, len(ids) - rows + 1, rows):
        began = time.perf_counter()
        llm.decode_batch(list(zip(sequences, ids[at : at + rows], strict=True)))
        steps.append((time.perf_counter() - began, sequences[0].last_stats))
    measured = steps[_WARM_UP:]
    seconds = [s for s, _ in measured]
    tokens = rows * len(measured)
    return Row(
        size=size,
        step_ms=statistics.median(seconds) * 1e3,
        least_ms=min(seconds) * 1e3,
        most_ms=max(seconds) * 1e3,
        compute_ms=statistics.median(stats.compute_s for _, stats in measured) * 1e3,
        tokens_per_s=rows / statistics.median(seconds),
        bytes_per_token=sum(stats.bytes_read for _, stats in measured) / tokens,
        experts_per_token=sum(stats.experts_used for _, stats in measured) / tokens,
    )


def one(pack: Path, sizes: dict[str, Any], context: int, rows: int, size: str, tokens: int) -> Row:
    """Open, prefill `context` tokens in each of `rows` sequences, decode."""
    room = context + tokens + 16
    with adapmoe.LLM(str(pack), max_context=room, max_sequences=rows, **sizes) as llm:
        ids = text_ids(llm, context + rows * (tokens + _WARM_UP) + rows)
        sequences = [llm.new_sequence() for _ in range(rows)]
        for i, sequence in enumerate(sequences):
            print(f"{size}: {context} tokens of prompt", file=sys.stderr, flush=True)
            sequence.prefill(ids[i : i + context])
        return measure(llm, sequences, ids[context : context + rows * (tokens + _WARM_UP)], size)


def main() -> None:
    """Measure and print one table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["contexts", "batches", "layers"])
    parser.add_argument("packs", type=Path, nargs="+")
    parser.add_argument("--sizes", default="", help="comma-separated")
    parser.add_argument("--experts-resident", type=float, default=1.0, help="0 to 1")
    parser.add_argument("--tokens", type=int, default=24, help="measured steps")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes: dict[str, Any] = {"expert_fraction": arguments.experts_resident}
    numbers = [int(n) for n in (arguments.sizes or "1,2,4,8").split(",")]
    rows = []
    for pack in arguments.packs:
        if arguments.what == "layers":
            rows.append(one(pack, sizes, _PROMPT, 1, pack.stem, arguments.tokens))
            continue
        for n in numbers:
            context, batch = (n, 1) if arguments.what == "contexts" else (_PROMPT, n)
            rows.append(one(pack, sizes, context, batch, str(n), arguments.tokens))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(
        f"{arguments.what:>12} {'step ms (least - most)':>26} {'computing':>10} {'tokens/s':>9}"
        f" {'MB/token':>9} {'experts/token':>14}"
    )
    for row in rows:
        spread = f"{row.step_ms:.1f} ({row.least_ms:.1f} - {row.most_ms:.1f})"
        print(
            f"{row.size:>12} {spread:>26} {row.compute_ms:>10.1f} {row.tokens_per_s:>9.2f}"
            f" {row.bytes_per_token / 1e6:>9.1f} {row.experts_per_token:>14.2f}"
        )


if __name__ == "__main__":
    main()
