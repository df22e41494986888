# SPDX-License-Identifier: Apache-2.0
"""Everything that doctor looks at, in one object that tests can fill with their own."""

import ctypes
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from adapmoe.doctor.commands import run_command
from adapmoe.kernel_tree import KernelTree


def load_library(name: str) -> Any:  # noqa: ANN401 - a library has whatever functions it has
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
