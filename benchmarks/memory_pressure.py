# SPDX-License-Identifier: Apache-2.0
"""Program: what a server does while another process takes memory and gives it back.

Usage:
  python -m benchmarks.memory_pressure PACK --limit 5GiB    in a memory group
  python -m benchmarks.memory_pressure PACK --leave 5GiB    on the whole machine

--limit: server and the other process share a memory group of this size (root, cgroup v1).
--leave: a third process first takes what the machine has more than this available.
--rounds N: the other process comes N times. --move-pack: the pack is renamed for a while, once.

Clients ask greedy completions, always the same ones, and every answer is compared with the model's
own, computed alone before. Prints what happened in each phase; ends with 1 if an answer was wrong,
failed or missing, or a process was killed.
"""

import argparse
import itertools
import json
import mmap
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import httpx
from rich.console import Console
from rich.table import Table

from adapmoe import LLM
from adapmoe.machine.procfs import KernelTree
from adapmoe.units import format_bytes, parse_memory
from benchmarks.cgroup import MemoryCgroup, memory_cgroup
from benchmarks.serve_load import Server, pieces, resident_mb, serving

_CHUNK = 32 << 20  # bytes that the other process takes at a time


@dataclass
class Sample:
    """One look at the server."""

    at: float
    given_back: float  # bytes
    room: float
    pressure: float
    rss_mb: float


@dataclass
class Seen:
    """Everything that clients and the sampler saw, times by time.perf_counter()."""

    answers: list[tuple[float, int]] = field(default_factory=list)  # when, tokens
    wrong: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


def take(size: int, per_second: float) -> None:
    """The other process: take memory at this speed, say so, and keep it until stdin ends."""
    held = []
    for _ in range(0, size, _CHUNK):
        began = time.perf_counter()
        chunk = mmap.mmap(-1, _CHUNK)
        for page in range(0, _CHUNK, mmap.PAGESIZE):
            chunk[page] = 1
        held.append(chunk)
        time.sleep(max(began + _CHUNK / per_second - time.perf_counter(), 0))
    print("taken", flush=True)
    sys.stdin.read()


@contextmanager
def other_process(size: int, group: MemoryCgroup | None, speed: float) -> Iterator[None]:
    """While somebody else holds so much memory. Raises ChildProcessError if they were killed."""
    command = [sys.executable, "-m", "benchmarks.memory_pressure", "--hold", str(size), str(speed)]
    if group is not None:
        command = group.command(command)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != "taken\n":
        raise ChildProcessError(f"the other process ended with {process.wait()}")
    try:
        yield
    finally:
        process.communicate("")
    if process.returncode:
        raise ChildProcessError(f"the other process ended with {process.returncode}")


def client(server: Server, expected: dict[str, str], tokens: int, seen: Seen, end: float) -> None:
    """Asks one prompt after the other."""
    with httpx.Client(base_url=server.url, timeout=600) as http:
        for prompt in itertools.cycle(expected):
            if time.perf_counter() > end:
                return
            body = {"model": server.model, "prompt": prompt, "max_tokens": tokens}
            try:
                reply = http.post("/v1/completions", json=body | {"temperature": 0})
                text = reply.json()["choices"][0]["text"] if reply.is_success else reply.text
            except httpx.HTTPError as error:
                text = repr(error)
            if text == expected[prompt]:
                seen.answers.append((time.perf_counter(), tokens))
            else:
                seen.wrong.append(text)


def sample(server: Server, seen: Seen, end: float) -> None:
    """Looks at the server four times a second."""
    while time.perf_counter() < end:
        found = server.metrics()
        seen.samples.append(
            Sample(
                time.perf_counter(),
                found["adapmoe_memory_given_back_bytes"],
                found["adapmoe_memory_room_bytes"],
                found["adapmoe_memory_pressure_ratio"],
                resident_mb(server.process.pid),
            )
        )
        time.sleep(0.25)


def answers_alone(pack: Path, count: int, tokens: int) -> dict[str, str]:
    """{prompt: greedy answer} of a model that runs alone."""
    with LLM(pack, experts_resident=0.5, max_context=512) as llm:
        parts = itertools.islice(pieces(llm, 24), count)
        prompts = [llm.tokenizer.decode(ids) for ids in parts]
        return {prompt: llm.generate(prompt, max_tokens=tokens).text for prompt in prompts}


@dataclass
class Phase:
    """What was seen while nothing changed but the ceiling: bytes, seconds, MB for `rss_mb`.

    Attributes:
        settled_s: until nothing more was given back.
        whole_s: until all was taken again; None: it was not.
    """

    name: str
    seconds: float
    tokens_per_s: float
    given_back: float
    room: float
    waiting: float
    rss_mb: tuple[float, float]
    settled_s: float
    whole_s: float | None


def phase(name: str, begin: float, end: float, seen: Seen) -> Phase:
    """From what was seen between two times."""
    samples = [one for one in seen.samples if begin <= one.at < end]
    given_back = max(one.given_back for one in samples)
    whole = (one.at - begin for one in samples if not one.given_back)
    return Phase(
        name,
        end - begin,
        sum(count for at, count in seen.answers if begin <= at < end) / (end - begin),
        given_back,
        min(one.room for one in samples),
        fmean(one.pressure for one in samples),
        (min(one.rss_mb for one in samples), max(one.rss_mb for one in samples)),
        next(one.at for one in samples if one.given_back == given_back) - begin,
        next(whole, None) if samples[0].given_back else 0.0,
    )


def table(phases: list[Phase]) -> Table:
    """A row per phase."""
    found = Table()
    names = ("phase", "s", "tokens/s", "given back", "after s", "whole after s", "least room")
    for column in (*names, "others wait", "RSS, MB"):
        found.add_column(column, justify="right")
    for one in phases:
        found.add_row(
            one.name,
            f"{one.seconds:.0f}",
            f"{one.tokens_per_s:.1f}",
            format_bytes(round(one.given_back)),
            f"{one.settled_s:.1f}" if one.given_back else "",
            "" if not one.whole_s else f"{one.whole_s:.1f}",
            format_bytes(round(one.room)),
            f"{one.waiting:.1%}",
            f"{one.rss_mb[0]:,.0f} - {one.rss_mb[1]:,.0f}",
        )
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--experts-resident", default="75%", help="the server's")
    parser.add_argument("--limit", type=parse_memory, default=0)
    parser.add_argument("--leave", type=parse_memory, default=0)
    parser.add_argument("--take", type=parse_memory, default=3 << 30)
    parser.add_argument("--speed", type=parse_memory, default=1 << 30, help="of taking, per second")
    parser.add_argument("--seconds", type=float, default=60, help="of each phase")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--move-pack", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def watch(
    server: Server,
    group: MemoryCgroup | None,
    expected: dict[str, str],
    arguments: argparse.Namespace,
    seen: Seen,
) -> list[Phase]:
    """Let clients ask and the other process come and go; what happened in each phase."""
    seconds = arguments.seconds
    end = time.perf_counter() + seconds * (2 * arguments.rounds + 1)
    threads = [
        threading.Thread(target=client, args=(server, expected, arguments.tokens, seen, end))
        for _ in range(arguments.clients)
    ]
    threads.append(threading.Thread(target=sample, args=(server, seen, end)))
    for thread in threads:
        thread.start()
    begins = [("before", time.perf_counter())]
    time.sleep(seconds)
    for number in range(arguments.rounds):
        begins.append(("taken", time.perf_counter()))
        with other_process(arguments.take, group, arguments.speed):
            if arguments.move_pack and number == 0:
                moved = arguments.pack.rename(arguments.pack.with_suffix(".moved"))
                time.sleep(seconds / 2)
                moved.rename(arguments.pack)
            time.sleep(max(begins[-1][1] + seconds - time.perf_counter(), 1))
        begins.append(("left", time.perf_counter()))
        time.sleep(max(begins[-1][1] + seconds - time.perf_counter(), 1))
    for thread in threads:
        thread.join()
    ends = [at for _, at in begins[1:]] + [time.perf_counter()]
    return [phase(name, at, to, seen) for (name, at), to in zip(begins, ends, strict=True)]


def main() -> None:
    """Run everything."""
    if sys.argv[1:2] == ["--hold"]:
        return take(int(sys.argv[2]), float(sys.argv[3]))
    arguments = parse()
    seen, out = Seen(), Console(width=110)
    with ExitStack() as stack:
        expected = answers_alone(arguments.pack, 8, arguments.tokens)
        group = None
        if arguments.limit:
            group = stack.enter_context(memory_cgroup(arguments.limit))
        if arguments.leave:
            available = KernelTree().meminfo("MemAvailable") or 0
            stack.enter_context(other_process(available - arguments.leave, None, 1e12))
        options = ["--experts-resident", arguments.experts_resident, "--max-context", "512"]
        server = stack.enter_context(serving(arguments.pack, options, group))
        phases = watch(server, group, expected, arguments, seen)
        alive = server.process.poll() is None
    if arguments.json:
        report = {"phases": [asdict(one) for one in phases], "answers": len(seen.answers)}
        print(json.dumps(report | {"others": seen.wrong}, allow_nan=False))
    else:
        out.print(table(phases))
        out.print(f"{len(seen.answers)} answers as alone, {len(seen.wrong)} others")
        for text in seen.wrong[:5]:
            out.print(text[:300], markup=False)
    sys.exit(0 if alive and not seen.wrong else 1)


if __name__ == "__main__":
    main()
