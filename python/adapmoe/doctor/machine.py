# SPDX-License-Identifier: Apache-2.0
"""The machine as the doctor sees it, and what it finds."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from adapmoe.machine.procfs import KernelTree

Status = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what it is about; the name to look for in `--json`.
        status: "ok"; "note": worth knowing; "warning": slower, or less memory, than need be;
            "problem": something cannot run.
        seen: what the machine says.
        why: why it matters.
        remedy: what to do about it; empty where nothing needs to be done.
    """

    topic: str
    status: Status
    seen: str
    why: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """Ready for JSON."""
        return asdict(self)


def has_problem(findings: Sequence[Finding]) -> bool:
    """Whether something cannot run."""
    return any(finding.status == "problem" for finding in findings)


_SECONDS = 5.0
_SBIN = "/usr/sbin:/sbin"  # where nvpmodel is, and where users have no PATH to


def run_command(words: Sequence[str]) -> str | None:
    """Run a program that only reports.

    Returns:
        What it wrote to stdout; None if it is missing, fails, or takes longer than five seconds.
    """
    program = shutil.which(words[0]) or shutil.which(words[0], path=_SBIN)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def load_library(name: str) -> Any:
    """A shared library as the loader finds it; None where it does not."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def package_version(name: str) -> str | None:
    """Version of an installed Python package, which is not imported."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def nvcc_of_environment() -> str | None:
    """`CUDACXX` as it is, or nvcc on the PATH."""
    return os.environ.get("CUDACXX") or shutil.which("nvcc")


@dataclass(frozen=True)
class Machine:
    """Where the answers come from.

    Attributes:
        tree: `/proc`, `/sys` and `/etc`.
        run: a program's output, or None.
        load: a shared library, or None.
        package: the version of a Python package, or None.
        nvcc: the path of a CUDA compiler that the environment names, or None.
    """

    tree: KernelTree = field(default_factory=KernelTree)
    run: Callable[[Sequence[str]], str | None] = run_command
    load: Callable[[str], Any] = load_library
    package: Callable[[str], str | None] = package_version
    nvcc: Callable[[], str | None] = nvcc_of_environment

    @classmethod
    def at(cls, root: Path) -> "Machine":
        """A machine that consists of files alone."""
        return cls(
            KernelTree(root),
            run=lambda words: None,
            load=lambda name: None,
            package=lambda name: None,
            nvcc=lambda: None,
        )

    @property
    def model(self) -> str:
        """The board's name from the device tree; empty on machines that have none."""
        return self.tree.text("proc/device-tree/model") or ""

    @property
    def is_jetson(self) -> bool:
        """Whether it is an NVIDIA Tegra, a container on one included."""
        compatible = self.tree.text("proc/device-tree/compatible") or ""
        return "nvidia,tegra" in compatible or self.tree.exists("etc/nv_tegra_release")
