# SPDX-License-Identifier: Apache-2.0
"""Runs one side of a row in a process of its own, inside a memory cgroup where there is a limit."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cgroup import drop_from_page_cache, memory_cgroup
from benchmarks.rows import Side

ROOT = Path(__file__).resolve().parents[1]
# Python, NumPy and our extension need about 25 MiB, and a session may take 64 MiB besides `memory`.
PYTHON_MARGIN = 128 << 20
_MOST_SECONDS = 3600


class SideFailed(Exception):
    """A run ended without a report."""


@dataclass(frozen=True)
class Runner:
    """The same model for both, and how each is to be run."""

    pack: Path
    gguf: Path
    peer_python: Path
    threads: int
    gating: str
    settings: dict[str, Any]  # further arguments of LLM

    def run(self, side: Side, job: dict[str, Any], limit: int | None) -> dict[str, Any]:
        """The report of one run. Raises SideFailed and CgroupUnavailable."""
        if not side.limited:
            limit = None
        job = job | {"threads": self.threads} | self._job(side, limit)
        python = self.peer_python if side.peer else Path(sys.executable)
        command = [str(python), "-m", "benchmarks." + ("peer_run" if side.peer else "our_run")]
        if limit is None:
            return self._child(command, job, side)
        drop_from_page_cache([self.gguf, *self.pack.iterdir()])
        with memory_cgroup(limit) as group:
            report = self._child(group.command(command), job, side)
            return report | {"largest_usage": group.largest_usage()}

    def _job(self, side: Side, limit: int | None) -> dict[str, Any]:
        if side.peer:
            # Repacked weights are no longer backed by the file, so they could not be given up.
            return {"gguf": str(self.gguf), "repack": limit is None}
        settings = dict(self.settings)
        if limit is None:
            settings["experts_resident"] = 1.0
        elif limit <= PYTHON_MARGIN:
            raise SideFailed(f"a limit of {limit} bytes is less than Python needs: {PYTHON_MARGIN}")
        else:
            settings["memory"] = limit - PYTHON_MARGIN
        if side.gated:
            settings["gating"] = self.gating
        return {"pack": str(self.pack), "settings": settings}

    def _child(self, command: list[str], job: dict[str, Any], side: Side) -> dict[str, Any]:
        paths = [str(ROOT)]
        with contextlib.suppress(KeyError):
            paths.append(os.environ["PYTHONPATH"])
        run = subprocess.run(
            command,
            input=json.dumps(job),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=_MOST_SECONDS,
        )
        if run.returncode:
            why = "killed, out of memory?" if run.returncode == -9 else f"status {run.returncode}"
            raise SideFailed(f"{side.name}: {why}\n{run.stderr[-2000:]}")
        return json.loads(run.stdout)
