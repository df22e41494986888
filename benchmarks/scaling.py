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
from adapmoe.pack.manifest import Manifest
from benchmarks.bounds import weight_bytes_per_step

_TEXT = Path(__file__).resolve().parents[1] / "tests" / "text" / "evaluation.txt"
_PROMPT = 64  # tokens before the measured ones, where the context is not what grows


@dataclass(frozen=True)
class Row:
    """One size: medians of the times, in milliseconds, and means of the counts.

    A step decodes a token of each sequence, and all of them share what it reads from the pack:
    `bytes_per_step` in all, `bytes_per_token` of it for each. `weight_bytes_per_step` are read from
    memory: the dense weights and every expert that some sequence needs, once.
    """

    size: str
    step_ms: float
    least_ms: float
    most_ms: float
    compute_ms: float
    tokens_per_s: float
    bytes_per_step: float
    bytes_per_token: float
    stall_ms: float
    hit_rate: float
    experts_per_token: float
    weight_bytes_per_step: float


def pieces(llm: adapmoe.LLM, rows: int, length: int) -> list[list[int]]:
    """For each sequence, ids of another piece of the evaluation text, repeated where it ends."""
    ids = llm.tokenizer.encode(_TEXT.read_text(encoding="utf-8"))
    ids = ids * (rows * length // len(ids) + 1)
    return [ids[row * length : (row + 1) * length] for row in range(rows)]


def measure(
    llm: adapmoe.LLM,
    sequences: list[adapmoe.Sequence],
    texts: list[list[int]],
    warm_up: int,
    size: str,
) -> Row:
    """Feed every sequence its text, one token of each per step."""
    rows, manifest = len(sequences), Manifest.read(llm.path)
    steps: list[tuple[float, Any]] = []
    for ids in zip(*texts, strict=True):
        began = time.perf_counter()
        llm.decode_batch(list(zip(sequences, ids, strict=True)))
        steps.append((time.perf_counter() - began, sequences[0].last_stats))
    measured = steps[warm_up:]
    seconds = [s for s, _ in measured]
    tokens = rows * len(measured)
    read = sum(stats.bytes_read for _, stats in measured)
    visits = sum(stats.experts_used for _, stats in measured)
    weights = statistics.fmean(
        weight_bytes_per_step(manifest, stats.experts_used) for _, stats in measured
    )
    return Row(
        size=size,
        step_ms=statistics.median(seconds) * 1e3,
        least_ms=min(seconds) * 1e3,
        most_ms=max(seconds) * 1e3,
        compute_ms=statistics.median(stats.compute_s for _, stats in measured) * 1e3,
        tokens_per_s=rows / statistics.median(seconds),
        bytes_per_step=read / len(measured),
        bytes_per_token=read / tokens,
        stall_ms=statistics.median(stats.stall_s for _, stats in measured) * 1e3,
        hit_rate=sum(stats.expert_hits for _, stats in measured) / visits,
        experts_per_token=visits / tokens,
        weight_bytes_per_step=weights,
    )


def one(pack: Path, arguments: argparse.Namespace, context: int, rows: int, size: str) -> Row:
    """Open, prefill `context` tokens in each of `rows` sequences, decode."""
    length = context + arguments.warmup + arguments.tokens
    with adapmoe.LLM(
        pack,
        max_context=length,
        max_sequences=rows,
        experts_resident=arguments.experts_resident,
        warm_restart=False,
    ) as llm:
        texts = pieces(llm, rows, length)
        sequences = [llm.new_sequence() for _ in range(rows)]
        for sequence, ids in zip(sequences, texts, strict=True):
            print(f"{size}: {context} tokens of prompt", file=sys.stderr, flush=True)
            sequence.prefill(ids[:context])
        return measure(llm, sequences, [ids[context:] for ids in texts], arguments.warmup, size)


def arguments_of(command_line: list[str] | None) -> argparse.Namespace:
    """Parse; sizes become numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["contexts", "batches", "layers"])
    parser.add_argument("packs", type=Path, nargs="+")
    parser.add_argument("--sizes", default="1,2,4,8", help="comma-separated")
    parser.add_argument("--experts-resident", type=float, default=1.0, help="0 to 1")
    parser.add_argument("--warmup", type=int, default=8, help="steps before the measured ones")
    parser.add_argument("--tokens", type=int, default=24, help="steps to measure")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(command_line)
    arguments.sizes = [int(n) for n in arguments.sizes.split(",")]
    return arguments


def main(command_line: list[str] | None = None) -> None:
    """Measure and print one table, or JSON."""
    arguments = arguments_of(command_line)
    rows = []
    for pack in arguments.packs:
        if arguments.what == "layers":
            rows.append(one(pack, arguments, _PROMPT, 1, pack.stem))
            continue
        for n in arguments.sizes:
            context, batch = (n, 1) if arguments.what == "contexts" else (_PROMPT, n)
            rows.append(one(pack, arguments, context, batch, str(n)))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print_table(arguments.what, rows)


def print_table(what: str, rows: list[Row]) -> None:
    """To stdout."""
    print(
        f"{what:>12} {'step ms (least - most)':>26} {'computing':>10} {'waiting':>8}"
        f" {'tokens/s':>9} {'MB/step':>8} {'MB/token':>9} {'hits':>6} {'experts/token':>14}"
        f" {'GB of weights':>14} {'GB/s':>5}"
    )
    for row in rows:
        spread = f"{row.step_ms:.1f} ({row.least_ms:.1f} - {row.most_ms:.1f})"
        print(
            f"{row.size:>12} {spread:>26} {row.compute_ms:>10.1f} {row.stall_ms:>8.1f}"
            f" {row.tokens_per_s:>9.2f} {row.bytes_per_step / 1e6:>8.1f}"
            f" {row.bytes_per_token / 1e6:>9.1f} {row.hit_rate:>6.1%}"
            f" {row.experts_per_token:>14.2f} {row.weight_bytes_per_step / 1e9:>14.2f}"
            f" {row.weight_bytes_per_step / row.step_ms / 1e6:>5.1f}"
        )


if __name__ == "__main__":
    main()
