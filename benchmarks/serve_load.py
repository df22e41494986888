# SPDX-License-Identifier: Apache-2.0
"""Program: measures a running server under load, and compares it with `llm.step`.

Usage:
  python -m benchmarks.serve_load PACK [--experts-resident 0.5] [--clients 1,4,16] [--seconds 120]

Starts `python -m adapmoe.serve` with 4 slots and opens the same pack with the same settings beside
it; only one of the two works at a time. Prompts are parts of the evaluation text, answers streamed.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

import adapmoe
from benchmarks.cgroup import MemoryCgroup

_TEXT = Path(__file__).resolve().parents[1] / "tests" / "text" / "evaluation.txt"
_SLOTS = 4


@dataclass
class Load:
    """What the clients saw; times in seconds."""

    clients: int
    answers: int = 0
    refused: int = 0
    lost: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    rss_mb: tuple[float, float] = (0.0, 0.0)  # before, after
    own_share: float = 0.0  # the server's own time, of that of the steps

    @property
    def rate(self) -> float:
        """Generated tokens per second."""
        return self.tokens / self.seconds


class Server:
    """The server process, asked with as little work as possible: it shares the cores."""

    def __init__(self, process: subprocess.Popen[str], line: str) -> None:
        self.process = process
        self.model, _, self.url = line.strip().partition(" is served at ")
        self.port = int(self.url.rpartition(":")[2])

    def metrics(self) -> dict[str, float]:
        """Samples without labels, by name."""
        with urllib.request.urlopen(f"{self.url}/metrics") as reply:
            text = reply.read().decode()
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if not sample.labels
        }

    async def ask(
        self, ids: list[int], tokens: int, times: list[float] | None = None
    ) -> tuple[int, list[float], int]:
        """Status, when each piece came (the first: when it was asked), number of tokens.

        `times`: filled in meanwhile.
        """
        times = [] if times is None else times
        body = json.dumps(
            {
                "model": self.model,
                "prompt": ids,
                "max_tokens": tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
            allow_nan=False,
        ).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        times.append(time.perf_counter())
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(head.encode() + body)
            status = int((await reader.readline()).split()[1])
            count = 0
            while line := await reader.readline():
                if line.startswith(b'data: {"') and b'"usage":null' in line:
                    times.append(time.perf_counter())
                elif b'"completion_tokens":' in line:
                    count = json.loads(line[6:])["usage"]["completion_tokens"]
            return status, times, count
        finally:
            writer.close()


@contextmanager
def serving(pack: Path, options: list[str], group: MemoryCgroup | None = None) -> Iterator[Server]:
    """A server of `pack`, perhaps in a memory group, ended at the end.

    Raises ChildProcessError if it does not end with 0, such as one that was killed.
    """
    command = [sys.executable, "-m", "adapmoe.serve", str(pack), "--port", "0", *options]
    if group is not None:
        command = group.command(command)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(process, process.stdout.readline())
        finally:
            process.terminate()
    if process.returncode:
        raise ChildProcessError(f"the server ended with {process.returncode}")


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def pieces(llm: adapmoe.LLM, length: int) -> Iterator[list[int]]:
    """Different parts of the evaluation text, without end."""
    ids = llm.tokenizer.encode(_TEXT.read_text(encoding="utf-8"))
    at = 0
    while True:
        yield [ids[(at + n) % len(ids)] for n in range(length)]
        at += length + 7


async def load(
    server: Server, prompts: Iterator[list[int]], clients: int, seconds: float, tokens: int
) -> Load:
    """So many clients, each of which asks again as soon as it has its answer."""
    found = Load(clients)
    ends = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < ends:
            status, times, count = await server.ask(next(prompts), tokens)
            if status == 429:
                found.refused += 1
                await asyncio.sleep(1)
            elif status != 200 or count != tokens:
                found.lost += 1
            else:
                found.answers += 1
                found.tokens += count
                found.first.append(times[1] - times[0])
                found.gaps += np.diff(times[1:]).tolist()

    before, memory = server.metrics(), resident_mb(server.process.pid)
    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    found.seconds = time.perf_counter() - began
    after = server.metrics()
    found.rss_mb = (memory, resident_mb(server.process.pid))
    own, steps = (
        after[f"adapmoe_{name}_seconds_sum"] - before[f"adapmoe_{name}_seconds_sum"]
        for name in ("own", "step")
    )
    found.own_share = own / steps
    return found


def steps_alone(
    llm: adapmoe.LLM, prompts: Iterator[list[int]], seconds: float, tokens: int
) -> float:
    """Tokens per second of `llm.step` with 4 sequences: the same prompts and answers, greedy."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        sequences = [llm.new_sequence() for _ in range(_SLOTS)]
        rows = llm.step([(sequence, next(prompts)) for sequence in sequences])
        for _ in range(tokens - 1):
            best = [int(np.argmax(row)) for row in rows if row is not None]
            rows = llm.step([(s, [token]) for s, token in zip(sequences, best, strict=True)])
        count += _SLOTS * tokens
        for sequence in sequences:
            sequence.close()
    return count / (time.perf_counter() - began)


def compare(
    server: Server, llm: adapmoe.LLM, prompts: Iterator[list[int]], arguments: argparse.Namespace
) -> list[dict[str, float]]:
    """Pairs: `llm.step` and the server with 4 clients, in turns."""
    found = []
    for _ in range(arguments.pairs):
        alone = steps_alone(llm, prompts, arguments.pair_seconds, arguments.tokens)
        served = asyncio.run(
            load(server, prompts, _SLOTS, arguments.pair_seconds, arguments.tokens)
        ).rate
        found.append({"step": alone, "served": served, "ratio": served / alone})
    return found


async def gap_beside_prompt(server: Server, llm: adapmoe.LLM, length: int) -> dict[str, float]:
    """The longest gap of a running answer, alone and while a prompt of `length` comes in."""
    came: list[float] = []
    running = asyncio.create_task(server.ask(next(pieces(llm, 32)), 1500, came))
    while len(came) < 20:
        await asyncio.sleep(0.05)
    begin = time.perf_counter()
    await server.ask(next(pieces(llm, length + 1))[1:], 1)
    end = time.perf_counter()
    running.cancel()
    ends, gaps = np.array(came[2:]), np.diff(came[1:])
    beside = (ends > begin) & (ends - gaps < end)
    return {
        "alone_median_s": float(np.median(gaps[~beside])),
        "beside_median_s": float(np.median(gaps[beside])),
        "beside_most_s": float(gaps[beside].max()),
        "prompt_s": end - begin,
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything, in the order of the report."""
    settings: dict[str, Any] = {
        "experts_resident": arguments.experts_resident,
        "max_context": arguments.max_context,
        "max_sequences": _SLOTS,
        "warm_restart": False,
    }
    options = [
        *("--experts-resident", str(arguments.experts_resident), "--no-warm-restart"),
        *("--max-context", str(arguments.max_context), "--max-sequences", str(_SLOTS)),
    ]
    with serving(arguments.pack, options) as server, adapmoe.LLM(arguments.pack, **settings) as llm:
        long = next(pieces(llm, 1500))
        first = []
        for _ in range(2):
            _, times, _ = asyncio.run(server.ask(long, 1))
            first.append(times[1] - times[0])
        gaps = asyncio.run(gap_beside_prompt(server, llm, 2000))
        prompts = pieces(llm, arguments.prompt)
        pairs = compare(server, llm, prompts, arguments)
        loads = [
            asyncio.run(load(server, prompts, clients, arguments.seconds, arguments.tokens))
            for clients in arguments.clients
        ]
        return {
            "backend": llm.backend,
            "memory_bytes": llm.memory_split.memory_bytes,
            "first_token_1500_s": {"cold": first[0], "again": first[1]},
            "gap_beside_2000": gaps,
            "pairs": pairs,
            "loads": [asdict(one) | {"tokens_per_s": one.rate} for one in loads],
        }


def percentiles(values: list[float]) -> str:
    """In milliseconds, for people."""
    found = np.percentile(values, [50, 95, 99]) * 1e3
    return " / ".join(f"{value:.1f}" for value in found)


def show(report: dict[str, Any]) -> None:
    """Print what `measure` found."""
    console = Console()
    console.print(f"{report['backend']}, memory {report['memory_bytes'] / 1e9:.2f} GB")
    cold, again = report["first_token_1500_s"].values()
    console.print(
        f"first token of a 1,500-token prompt: {cold:.3f} s, again {again:.4f} s "
        f"({cold / again:.0f}x)"
    )
    gaps = report["gap_beside_2000"]
    console.print(
        f"gap of a running answer: median {gaps['alone_median_s'] * 1e3:.1f} ms; while a "
        f"2,000-token prompt comes in ({gaps['prompt_s']:.1f} s) median "
        f"{gaps['beside_median_s'] * 1e3:.1f}, most {gaps['beside_most_s'] * 1e3:.1f} ms"
    )
    ratios = sorted(pair["ratio"] for pair in report["pairs"])
    middle = report["pairs"][len(ratios) // 2]
    console.print(
        f"4 clients against llm.step with 4 sequences: {np.median(ratios):.2f} "
        f"({ratios[0]:.2f} - {ratios[-1]:.2f}), such as {middle['served']:.1f} and "
        f"{middle['step']:.1f} tokens/s"
    )
    table = Table("clients", "answers", "429", "lost", "tokens/s", "first token ms p50/95/99")
    for heading in ("between tokens ms p50/95/99", "own time", "RSS MB before, after"):
        table.add_column(heading)
    for one in report["loads"]:
        table.add_row(
            str(one["clients"]),
            str(one["answers"]),
            str(one["refused"]),
            str(one["lost"]),
            f"{one['tokens_per_s']:.1f}",
            percentiles(one["first"]),
            percentiles(one["gaps"]),
            f"{one['own_share']:.1%}",
            "{:.0f}, {:.0f}".format(*one["rss_mb"]),
        )
    console.print(table)


def main(command_line: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--experts-resident", type=float, default=1.0, help="0 to 1")
    parser.add_argument("--clients", default="1,4,16", help="comma-separated")
    parser.add_argument("--seconds", type=float, default=120, help="per number of clients")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--pair-seconds", type=float, default=20)
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--tokens", type=int, default=64, help="per answer")
    parser.add_argument("--max-context", type=int, default=2048)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(command_line)
    arguments.clients = [int(n) for n in arguments.clients.split(",")]
    report = measure(arguments)
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
    else:
        show(report)


if __name__ == "__main__":
    main()
