# SPDX-License-Identifier: Apache-2.0
"""Program: measures the memory that a server takes besides its ceiling, in a memory cgroup.

Usage:
  python -m benchmarks.serve_memory PACK [--memory 3GiB] [--seconds 30] [--json]

The group's limit is the ceiling and `SERVER_BYTES`, as a unit's MemoryMax is. Between bursts of
bodies as large as the server takes, as many at a time as it takes, 4 clients keep it busy. Needs
root and cgroup v1.
"""

import argparse
import asyncio
import json
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from adapmoe import LLM
from adapmoe.planning.service_memory import SERVER_BYTES
from adapmoe.serve.body import MAX_BRACKETS
from adapmoe.units import parse_memory
from benchmarks.cgroup import MemoryCgroup, memory_cgroup
from benchmarks.serve_load import Server, load, pieces, serving

_SLOTS = 4
_MB = 1e6
_BODY_BYTES = (8 << 20) - 512  # a little less than --max-body
_BODIES = 8  # as many are held at a time


@dataclass
class Taken:
    """The most memory in a phase, in bytes.

    Attributes:
        outside: resident memory of the process, without what lies under the ceiling.
        kernel: of the kernel for the group: sockets, page tables and the like.
        group: all that the group had, files in the page cache included.
        statuses: how requests ended.
    """

    phase: str
    outside: int
    kernel: int
    group: int
    statuses: str = ""


def bodies(model: str) -> dict[str, tuple[str, bytes]]:
    """Path and body by name: what takes most room once it is parsed, rendered or tokenized."""
    chat, completions = "/v1/chat/completions", "/v1/completions"
    message = '{"role": "user", "content": "%s"},'
    brackets = MAX_BRACKETS - 10

    def body(start: str, item: str, end: str, most: int = _BODY_BYTES) -> bytes:
        front = f'{{"model": "{model}", "max_tokens": 1, {start}'.encode()
        each, last = item.encode(), end.encode()
        count = min((_BODY_BYTES - len(front) - len(last)) // len(each), most)
        return front + (each * count).removesuffix(b",") + last

    return {
        "words": (chat, body('"messages": [{"role": "user", "content": "', "word ", '"}]}')),
        "emoji": (chat, body('"messages": [{"role": "user", "content": "', "\U0001f600", '"}]}')),
        "messages": (chat, body('"messages": [', message % "a", "]}", brackets)),
        "token ids": (completions, body('"prompt": [', "1000,", "]}")),
        "numbers": (completions, body('"prompt": [', "0.5,", "]}")),
        "prompts": (completions, body('"prompt": [', '"a",', "]}")),
        "lists": (completions, body('"prompt": [', "[1000,1000],", "]}", brackets)),
    }


class Meter:
    """Reads what a server's process and its group take."""

    def __init__(self, pid: int, group: MemoryCgroup) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._group = group.folder

    def begin(self) -> None:
        """Peaks start here."""
        (self._proc / "clear_refs").write_text("5")
        for name in ("memory.max_usage_in_bytes", "memory.kmem.max_usage_in_bytes"):
            (self._group / name).write_text("0")

    def end(self, phase: str, statuses: str = "") -> Taken:
        """Peaks since `begin`."""
        # What is under the ceiling only grows while experts stay, so it was never more than now.
        under = self._arena_bytes()
        return Taken(
            phase,
            self._status("VmHWM") - under,
            self._number("memory.kmem.max_usage_in_bytes"),
            self._number("memory.max_usage_in_bytes"),
            statuses,
        )

    def killed(self) -> int:
        """How often the group ran out of memory."""
        fields = (self._group / "memory.oom_control").read_text().split()
        return int(fields[fields.index("oom_kill") + 1])

    def _number(self, name: str) -> int:
        return int((self._group / name).read_text())

    def _status(self, field: str) -> int:
        for line in (self._proc / "status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) << 10
        raise KeyError(field)

    def _arena_bytes(self) -> int:
        """What is resident of the session's memory, which alone is not for a fork ("dc")."""
        found, resident = 0, 0
        for line in (self._proc / "smaps").read_text().splitlines():
            if line.startswith("Rss:"):
                resident = int(line.split()[1]) << 10
            elif line.startswith("VmFlags:") and "dc" in line.split() and "hg" in line.split():
                found += resident
        return found


def _grammar(model: str) -> tuple[str, bytes]:
    """A request whose answer has to be JSON, for which the server reads the vocabulary again."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 4,
        "response_format": {"type": "json_object"},
    }
    return "/v1/chat/completions", json.dumps(body, allow_nan=False).encode()


def _post(server: Server, path: str, body: bytes, statuses: list[int]) -> None:
    headers = {"Content-Type": "application/json"}
    reply = httpx.post(server.url + path, content=body, headers=headers, timeout=600)
    statuses.append(reply.status_code)


def burst(server: Server, path: str, body: bytes) -> str:
    """The same body from as many clients as may send one at a time; how they were answered."""
    statuses: list[int] = []
    senders = [
        threading.Thread(target=_post, args=(server, path, body, statuses)) for _ in range(_BODIES)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return ", ".join(f"{statuses.count(one)} x {one}" for one in sorted(set(statuses)))


def measure(pack: Path, memory: int, seconds: float) -> dict[str, Any]:
    """Everything, in the order of the report."""
    options = ["--memory", str(memory), "--max-sequences", str(_SLOTS)]
    with (
        LLM(pack, memory, max_sequences=_SLOTS, warm_restart=False) as llm,
        memory_cgroup(memory + SERVER_BYTES) as group,
        serving(pack, options, group) as server,
    ):
        context = llm.max_context
        meter = Meter(server.process.pid, group)
        found = []
        meter.begin()
        asyncio.run(server.ask(next(pieces(llm, 64)), 8))
        found.append(meter.end("the first answer"))
        for name, length in (("4 clients", 64), ("4 clients, long prompts", context - 80)):
            meter.begin()
            seen = asyncio.run(load(server, pieces(llm, length), _SLOTS, seconds, 64))
            found.append(meter.end(name, f"{seen.answers} answers, {seen.lost} lost"))
        for name, (path, body) in bodies(server.model).items():
            meter.begin()
            statuses = burst(server, path, body)
            found.append(meter.end(f"{_BODIES} bodies: {name}", statuses))
        time.sleep(2)
        meter.begin()
        found.append(meter.end("8 grammars", burst(server, *_grammar(server.model))))
        meter.begin()
        found.append(meter.end("at rest after all that"))
        return {
            "memory_bytes": memory,
            "limit_bytes": memory + SERVER_BYTES,
            "killed": meter.killed(),
            "threads": len(list(Path(f"/proc/{server.process.pid}/task").iterdir())),
            "phases": [asdict(one) for one in found],
        }


def show(report: dict[str, Any]) -> None:
    """Print what `measure` found, in MB."""
    console = Console()
    console.print(
        f"memory {report['memory_bytes'] / _MB:.0f} MB, limit {report['limit_bytes'] / _MB:.0f} "
        f"MB, {report['threads']} threads, killed {report['killed']} times"
    )
    table = Table("phase", "outside", "kernel", "group, with files", "answers")
    for one in report["phases"]:
        sizes = [f"{one[name] / _MB:.0f}" for name in ("outside", "kernel", "group")]
        table.add_row(one["phase"], *sizes, one["statuses"])
    console.print(table)


def main(command_line: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--memory", default="3GiB", help="the ceiling")
    parser.add_argument("--seconds", type=float, default=30, help="per load of 4 clients")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(command_line)
    report = measure(arguments.pack, parse_memory(arguments.memory), arguments.seconds)
    if arguments.json:
        print(json.dumps(report, allow_nan=False))
    else:
        show(report)


if __name__ == "__main__":
    main()
