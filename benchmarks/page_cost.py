# SPDX-License-Identifier: Apache-2.0
"""Program: measures what a page that shows the machine costs a running answer.

Usage:
  python -m benchmarks.page_cost PACK [--experts-resident 0.5] [--answers 10] [--viewers 1] [--json]

In each streamed answer, stretches of as many tokens follow each other: without somebody who reads
/activity, with, with, without, or the other way round. So what else changes, such as the length of
the context or the load of the machine, is nearly the same in both.
"""

import argparse
import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapmoe.text.tokenizer import Tokenizer
from benchmarks.serve_load import Server, serving

_TEXT = Path(__file__).resolve().parents[1] / "tests" / "text" / "evaluation.txt"
_PROMPT = 32  # tokens
_WARM_UP = 8  # tokens of an answer before the first stretch
_ORDERS = ((False, True, True, False), (True, False, False, True))
_GET = b"GET /activity HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@dataclass
class Stretch:
    """A part of an answer.

    Attributes:
        viewed: whether somebody read /activity.
        seconds: that it took.
        cpu_s: of the server's threads.
        events: that came, for all viewers.
    """

    viewed: bool
    seconds: float
    cpu_s: float
    events: int


@asynccontextmanager
async def viewing(server: Server, viewers: int) -> AsyncIterator[list[float]]:
    """So many read /activity; yields when each event came."""
    came: list[float] = []

    async def read() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(_GET)
            while line := await reader.readline():
                if line.startswith(b"data: "):
                    came.append(time.perf_counter())
        finally:
            writer.close()

    tasks = [asyncio.create_task(read()) for _ in range(viewers)]
    try:
        while viewers and len(came) < viewers:
            await asyncio.sleep(0.01)
        yield came
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


def cpu_s(server: Server) -> float:
    """What the server's threads have computed so far, in seconds."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def stretches(
    server: Server, prompt: list[int], tokens: int, viewers: int, order: tuple[bool, ...]
) -> list[Stretch]:
    """One answer, in stretches of so many tokens, viewed or not."""
    times: list[float] = []
    count = _WARM_UP + len(order) * tokens
    asking = asyncio.create_task(server.ask(prompt, count + 8, times))

    async def come(pieces: int) -> float:
        """When so many pieces had come; a few come with two tokens."""
        while len(times) <= pieces:
            if asking.done():
                raise RuntimeError(f"the answer has only {len(times) - 1} pieces, not {pieces}")
            await asyncio.sleep(0.001)
        return times[pieces]

    found = []
    for at, viewed in enumerate(order):
        first = _WARM_UP + at * tokens
        async with viewing(server, viewers * viewed) as came:
            began, busy, before = await come(first), cpu_s(server), len(came)
            ended = await come(first + tokens - 1)
            busy = cpu_s(server) - busy
            found.append(Stretch(viewed, ended - began, busy, len(came) - before))
    await asking
    return found


async def idle_cpu(server: Server, viewers: int, seconds: float) -> float:
    """The part of one core that the server takes while nothing runs."""
    async with viewing(server, viewers):
        before = cpu_s(server)
        await asyncio.sleep(seconds)
        return (cpu_s(server) - before) / seconds


async def measure(server: Server, arguments: argparse.Namespace) -> dict[str, Any]:
    """All answers, and the idle server."""
    ids = Tokenizer.from_pack(arguments.pack).encode(_TEXT.read_text(encoding="utf-8"))
    answers = []
    for at in range(arguments.answers):
        prompt = ids[at * _PROMPT : (at + 1) * _PROMPT]
        order = _ORDERS[at % 2] * arguments.rounds
        answers.append(await stretches(server, prompt, arguments.tokens, arguments.viewers, order))
    return {
        "tokens": arguments.tokens,
        "answers": [[asdict(one) for one in answer] for answer in answers],
        "idle_cpu": await idle_cpu(server, 0, arguments.idle),
        "viewed_idle_cpu": await idle_cpu(server, arguments.viewers, arguments.idle),
    }


def costs(report: dict[str, Any], name: str) -> np.ndarray:
    """The part more that each four stretches took with viewers, in `name`."""
    found = []
    for answer in report["answers"]:
        for at in range(0, len(answer), 4):
            four = answer[at : at + 4]
            alone, viewed = (
                sum(one[name] for one in four if one["viewed"] is each) for each in (False, True)
            )
            found.append(viewed / alone - 1)
    return np.array(found)


def show(report: dict[str, Any]) -> None:
    """Print what `measure` found."""
    every = [one for answer in report["answers"] for one in answer]
    rate = (report["tokens"] - 1) / np.median([one["seconds"] for one in every])
    viewed = [one for one in every if one["viewed"]]
    events = sum(one["events"] for one in viewed) / sum(one["seconds"] for one in viewed)
    print(f"{len(every)} stretches of {report['tokens']} tokens, {rate:.1f} tokens/s, ", end="")
    print(f"{events:.1f} events/s")
    for name, what in (("seconds", "time per token"), ("cpu_s", "the server's CPU time")):
        found = costs(report, name)
        # Of the median, from as many medians of costs drawn again.
        drawn = np.random.default_rng(0).choice(found, (2000, len(found)))
        low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
        print(f"cost in {what}: median {np.median(found):.2%}, 95 % {low:.2%} to {high:.2%}")
    idle, seen = report["idle_cpu"], report["viewed_idle_cpu"]
    print(f"idle server: {idle:.2%} of a core, viewed {seen:.2%}")


def main(command_line: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--experts-resident", type=float, default=1.0, help="0 to 1")
    parser.add_argument("--answers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=4, help="of four stretches in an answer")
    parser.add_argument("--tokens", type=int, default=48, help="per stretch")
    parser.add_argument("--viewers", type=int, default=1)
    parser.add_argument("--idle", type=float, default=20, help="seconds, twice")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(command_line)
    options = [
        *("--experts-resident", str(arguments.experts_resident), "--no-warm-restart"),
        *("--max-sequences", "1", "--max-context", "2048"),
    ]
    with serving(arguments.pack, options) as server:
        report = asyncio.run(measure(server, arguments))
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
    else:
        show(report)


if __name__ == "__main__":
    main()
