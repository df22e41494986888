# SPDX-License-Identifier: Apache-2.0
"""What the compiled files of a package need of the system that it is installed on."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jetson.deb.targets import Target

# The packages that hold the libraries a package may use, in every release it is built for.
PACKAGES = {
    "ld-linux-aarch64.so.1": "libc6",
    "ld-linux-x86-64.so.2": "libc6",
    "libc.so.6": "libc6",
    "libdl.so.2": "libc6",
    "libgcc_s.so.1": "libgcc-s1",
    "libm.so.6": "libc6",
    "libpthread.so.0": "libc6",
    "librt.so.1": "libc6",
    "libstdc++.so.6": "libstdc++6",
    "libutil.so.1": "libc6",
    "libz.so.1": "zlib1g",
}
# The version of libstdc++6 that brought a symbol version.
_STDCXX = {19: "4.8.1", 20: "4.9", 21: "5.2", 22: "6", 23: "7", 24: "7.2", 25: "8", 26: "9"}
_STDCXX |= {27: "9.2", 28: "9.3", 29: "11", 30: "12", 31: "13", 32: "13.1", 33: "14"}

_MACHINE = re.compile(r"^\s*Machine:\s+(.*)$", re.MULTILINE)
_NEEDED = re.compile(r"\(NEEDED\).*\[(.*)\]")
_VERSION = re.compile(r"Name: (GLIBC|GLIBCXX|CXXABI|GCC)_([0-9.]+)")
_MACHINES = {"x86_64": "Advanced Micro Devices X86-64", "aarch64": "AArch64"}


@dataclass
class Needs:
    """Libraries, by their names in files, and the newest version of each kind of symbol."""

    libraries: set[str] = field(default_factory=set)
    symbols: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def packages(self) -> list[str]:
        """The packages to depend on."""
        glibc = ".".join(map(str, self.symbols.get("GLIBC", (2, 17))))
        found = {PACKAGES[library] for library in self.libraries if library in PACKAGES}
        versions = {"libc6": f" (>= {glibc})"}
        if "GLIBCXX" in self.symbols:
            minor = max(min(_STDCXX), self.symbols["GLIBCXX"][2])
            versions["libstdc++6"] = f" (>= {_STDCXX[minor]})"
        return [name + versions.get(name, "") for name in sorted(found)]


def elf_files(root: Path) -> Iterator[Path]:
    """Every file with compiled code below `root`."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def read_needs(root: Path, target: Target) -> Needs:
    """What all of them need; ends the program where the target's release lacks it."""
    needs = Needs()
    problems = []
    files = list(elf_files(root))
    own = {path.name for path in files}
    for path in files:
        text = subprocess.run(
            ["readelf", "-W", "-h", "-d", "-V", path], check=True, capture_output=True, text=True
        ).stdout
        name = path.relative_to(root)
        machine = _MACHINE.findall(text)
        if machine != [_MACHINES[target.machine]]:
            problems.append(f"{name}: for {', '.join(machine)}")
        libraries = set(_NEEDED.findall(text)) - own
        for library in sorted(libraries - set(PACKAGES)):
            problems.append(f"{name}: needs {library}, which is not in the package")
        needs.libraries |= libraries
        for kind, number in _VERSION.findall(text):
            version = tuple(map(int, number.split(".")))
            if version > target.release.symbols[kind]:
                problems.append(f"{name}: needs {kind}_{number}")
            needs.symbols[kind] = max(needs.symbols.get(kind, ()), version)
    if problems:
        listing = "\n".join(problems)
        raise SystemExit(f"not for {target.release.suite} on {target.architecture}:\n{listing}")
    return needs
