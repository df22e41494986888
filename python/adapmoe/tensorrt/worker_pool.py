# SPDX-License-Identifier: Apache-2.0
"""Starts workers, bounds their memory, and turns whatever happens to them into a typed error."""

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from adapmoe import _core
from adapmoe.errors import EngineError
from adapmoe.machine.procfs import KernelTree
from adapmoe.units import format_bytes

_POLL_SECONDS = 0.05
_LEAST_AVAILABLE = 256 << 20  # for this process and others while a worker runs
_TAIL_LINES = 4  # of what a crashed worker said


class WorkerPool:
    """Runs jobs, each in a process of its own. Safe to use from threads."""

    def __init__(self, max_rss_bytes: int) -> None:
        """A worker whose resident memory exceeds `max_rss_bytes` is killed."""
        self._max_rss_bytes = max_rss_bytes
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Kill the workers that run, and start no more."""
        self._stopped.set()

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """The result of a job of adapmoe.tensorrt.worker.

        Raises:
            EngineError: the job failed, crashed, was stopped or took too much memory.
        """
        command = [sys.executable, "-m", "adapmoe.tensorrt.worker"]
        pipe = subprocess.PIPE
        # What lies in the current directory is not to be imported by accident.
        env = os.environ | {"PYTHONSAFEPATH": "1"}
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=env) as process:
            try:
                out, said = self._wait(process, json.dumps(job, allow_nan=False).encode())
            finally:
                process.kill()
        try:
            result: dict[str, Any] = json.loads(out)
        except ValueError:
            raise EngineError(_describe_crash(process.returncode, said)) from None
        if "error" in result:
            raise EngineError(result["error"])
        return result

    def _wait(self, process: "subprocess.Popen[bytes]", request: bytes) -> tuple[bytes, bytes]:
        unsent: bytes | None = request
        while True:
            if self._stopped.is_set():
                raise EngineError("stopped")
            try:
                return process.communicate(unsent, timeout=_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                unsent = None  # the first call keeps it
            if reason := reason_to_end(KernelTree(), process.pid, self._max_rss_bytes):
                raise EngineError(reason)


def reason_to_end(tree: KernelTree, pid: int, max_rss_bytes: int) -> str:
    """Why a worker takes too much memory; empty where it does not, or is gone.

    The memory of an integrated GPU is not in its resident memory: only the machine's shows it. A
    cgroup's limit counts too: at it the kernel would end whichever process is the largest.
    """
    rss = tree.fields(f"proc/{pid}/status").get("VmRSS", "0 kB")
    taken = int(rss.split()[0]) * 1024
    if taken > max_rss_bytes:
        return (
            f"the worker took {format_bytes(taken)}, more than {format_bytes(max_rss_bytes)} of "
            "memory, and was ended; allow it more: --max-rss"
        )
    available = _core.available_memory(tree.root)
    if available < _LEAST_AVAILABLE:
        return (
            f"{format_bytes(available)} of memory were left (MemAvailable, cgroups), less than "
            f"{format_bytes(_LEAST_AVAILABLE)}, and the worker, with {format_bytes(taken)} of its "
            "own and perhaps more on the GPU, was ended; end other programs, or build with less "
            "workspace: a smaller --max-rss"
        )
    return ""


def _describe_crash(code: int, said: bytes) -> str:
    how = f"exit code {code}"
    if code < 0:
        how = f"signal {-code} ({signal.strsignal(-code)})"
    lines = said.decode(errors="replace").strip().splitlines()[-_TAIL_LINES:]
    return f"the worker ended with {how}" + (f": {' | '.join(lines)}" if lines else "")
