# SPDX-License-Identifier: Apache-2.0
"""Run as a program: the same model, the same token ids, llama.cpp and us in turn.

Both run with the same threads, and under a limit in the same memory cgroup, in which everything
counts, page cache too; that part needs root. Each row is measured in pairs, every other pair in
the opposite order. Rows accumulate in one JSON file. The GGUF is made of the pack where it is
missing, and the peer is built on the first run (peer_build).

Usage: python -m benchmarks.pairing PACK [--gguf FILE] [--out FILE] [--rows NAME,NAME...]
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from adapmoe.pack.manifest import Manifest
from adapmoe.text.tokenizer import Tokenizer
from benchmarks.agreement import measure_agreement
from benchmarks.bounds import measure_bounds, weight_bytes_per_token
from benchmarks.cgroup import CachedPages, CgroupUnavailable
from benchmarks.gguf_file import write_gguf
from benchmarks.pairing_results import open_results, provenance
from benchmarks.pairing_summary import agreement_text, summarize, table_of
from benchmarks.peer_build import peer_python
from benchmarks.rows import AGREEMENT, ROWS, Row
from benchmarks.sides import ROOT, Runner, SideFailed

_PREFILL_WARM_UP = 128
_QUIET_LOAD = 0.5
_TABLE_COLUMNS = 200  # of a file or a pipe


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Pairing:
    """One pack, its GGUF, and the text whose ids both are fed."""

    def __init__(self, arguments: argparse.Namespace, runner: Runner) -> None:
        self._arguments, self._runner = arguments, runner
        self.manifest = Manifest.read(runner.pack)
        self._ids = Tokenizer.from_pack(runner.pack).encode(arguments.text.read_text())
        self._model_bytes = runner.gguf.stat().st_size

    def ids(self, begin: int, count: int) -> list[int]:
        """A piece of the text, which is repeated where it ends."""
        return np.take(self._ids, range(begin, begin + count), mode="wrap").tolist()

    def agreement(self) -> dict[str, Any]:
        say(f"{AGREEMENT}: {self._arguments.agreement_tokens} tokens, one by one, both sides")
        return measure_agreement(self._runner, self.ids(0, self._arguments.agreement_tokens + 1))

    def row(self, row: Row) -> dict[str, Any]:
        """All pairs of a row and their summary.

        Raises CgroupUnavailable, SideFailed and CachedPages.
        """
        limit = None if row.fraction is None else int(row.fraction * self._model_bytes)
        pairs = []
        for number in range(self._arguments.pairs):
            job = self._job(row, number)
            bounds = measure_bounds(self._runner.pack, self.manifest, self._runner.threads)
            pair: dict[str, Any] = {"bounds": asdict(bounds)}
            for side in row.sides if number % 2 == 0 else row.sides[::-1]:
                say(f"{row.name}: pair {number + 1} of {self._arguments.pairs}, {side.name}")
                pair[side.name] = self._runner.run(side, job, limit)
            pairs.append(pair)
        weight_bytes = weight_bytes_per_token(self.manifest)
        return {
            "task": {name: value for name, value in job.items() if name != "ids"},
            "limit_bytes": limit,
            "weight_bytes_per_token": weight_bytes,
            "summary": summarize(row, pairs, weight_bytes),
            "pairs": pairs,
        }

    def _job(self, row: Row, number: int) -> dict[str, Any]:
        """Another piece of the text for every pair."""
        prompt = row.prompt or self._arguments.prompt_tokens
        count, warm_up = prompt, 0
        if row.task == "decode":
            warm_up = self._arguments.warmup
            count += warm_up + self._arguments.tokens + 1
        elif row.task == "prefill":
            warm_up = min(prompt, _PREFILL_WARM_UP)
        return {
            "task": row.task,
            "prompt": prompt,
            "warm_up": warm_up,
            "context": -(-count // 256) * 256,
            "ids": self.ids(number * count, count),
        }


def measure(pairing: Pairing, names: list[str], results: dict[str, Any], out: Path) -> list[str]:
    """Each row goes into the file as soon as it is measured; returns the names that failed."""
    failed = []
    for name in names:
        try:
            found = pairing.agreement() if name == AGREEMENT else pairing.row(ROWS[name])
        except CgroupUnavailable as why:
            say(f"{name}: not measured: {why}")
            continue
        except (SideFailed, CachedPages) as why:
            say(f"{name}: failed: {why}")
            failed.append(name)
            continue
        results["rows"][name] = found | {"provenance": provenance()}
        out.write_text(json.dumps(results, indent=1) + "\n")
    return failed


def arguments_of(command_line: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("pack", type=Path, help="int4 in groups of 32, dense weights too")
    add("--gguf", type=Path, help="default: beside the pack")
    add("--out", type=Path, help="JSON, rows accumulate; default: beside the pack")
    add("--text", type=Path, default=ROOT / "tests/text/evaluation.txt")
    add("--rows", default=",".join((AGREEMENT, *ROWS)), help="default: %(default)s")
    add("--pairs", type=int, default=5)
    add("--prompt-tokens", type=int, default=64, help="before decoding")
    add("--warmup", type=int, default=16, help="tokens decoded before the measurement")
    add("--tokens", type=int, default=48, help="tokens decoded and measured")
    add("--agreement-tokens", type=int, default=256)
    add("--threads", type=int, default=2)
    add("--gating", default="sensitivity", help="of the row gating-50: or residency")
    add("--ours", type=json.loads, default={}, help="further arguments of LLM as JSON")
    arguments = parser.parse_args(command_line)
    arguments.rows = arguments.rows.split(",")
    unknown = set(arguments.rows) - {AGREEMENT, *ROWS}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    return arguments


def main(command_line: list[str] | None = None) -> None:
    arguments = arguments_of(command_line)
    pack = arguments.pack
    gguf = arguments.gguf or pack.with_suffix(".gguf")
    out = arguments.out or pack.with_suffix(".pairing.json")
    python = peer_python()
    if not gguf.exists():
        say(f"writing {gguf}")
        write_gguf(pack, gguf)
    if os.getloadavg()[0] > _QUIET_LOAD:
        say(f"the machine is busy (load {os.getloadavg()[0]:.1f}): no figure will be worth much")
    runner = Runner(pack, gguf, python, arguments.threads, arguments.gating, arguments.ours)
    results = open_results(out, pack, gguf)
    failed = measure(Pairing(arguments, runner), arguments.rows, results, out)
    console = Console(width=None if sys.stdout.isatty() else _TABLE_COLUMNS)
    console.print(table_of(results))
    console.print(agreement_text(results))
    console.print(str(out))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
