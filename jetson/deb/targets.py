# SPDX-License-Identifier: Apache-2.0
"""What packages are built for: versions of Python, and architectures."""

import platform
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Release:
    """An Ubuntu release, which its Python stands for, and the newest symbols of its libraries."""

    suite: str
    symbols: dict[str, tuple[int, ...]]


RELEASES = {
    # JetPack 6.2
    "3.10": Release(
        "jammy",
        {
            "GLIBC": (2, 35),
            "GLIBCXX": (3, 4, 30),
            "CXXABI": (1, 3, 13),
            "GCC": (12, 0, 0),
        },
    ),
    # JetPack 7.2
    "3.12": Release(
        "noble",
        {
            "GLIBC": (2, 39),
            "GLIBCXX": (3, 4, 33),
            "CXXABI": (1, 3, 15),
            "GCC": (14, 0, 0),
        },
    ),
}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Target:
    """One package's Python (as "3.10") and architecture (as Debian calls it)."""

    python: str
    architecture: str

    @property
    def release(self) -> Release:
        """Where it is meant to run."""
        return RELEASES[self.python]

    @property
    def machine(self) -> str:
        """The architecture as Python and Linux call it."""
        return MACHINES[self.architecture]

    @property
    def native(self) -> bool:
        """Whether this machine can run it."""
        return platform.machine() == self.machine

    @property
    def tag(self) -> str:
        """The Python as wheels call it, such as cp310."""
        return "cp" + self.python.replace(".", "")

    @property
    def site(self) -> str:
        """Where its Python modules are, as seen from the root of the package."""
        return f"opt/adapmoe/lib/python{self.python}/site-packages"

    @property
    def requirements(self) -> Path:
        """The list of bundled wheels, which lock.py writes."""
        return HERE / f"requirements-{self.python}.txt"
