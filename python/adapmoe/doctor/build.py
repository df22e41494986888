# SPDX-License-Identifier: Apache-2.0
"""What this installation was built with: the core, its kernels, nvcc."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from adapmoe.doctor.machine import Finding, Machine
from adapmoe.errors import AdapmoeError
from adapmoe.machine.procfs import KernelTree

_USED = (
    *("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
    *("asimd", "asimddp", "asimdhp"),
)


def cpu_flags(tree: KernelTree) -> list[str]:
    """Of all features in `/proc/cpuinfo`, those that decide which kernels can run."""
    fields = tree.fields("proc/cpuinfo")
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return [name for name in _USED if name in flags]


def cpu_name(machine: Machine) -> str:
    """Such as "AMD EPYC ..."; on Arm the board's name, because cpuinfo has only numbers."""
    name = machine.tree.fields("proc/cpuinfo").get("model name")
    return name or machine.model or "unknown processor"


_WHY = "everything that computes is in it"
_WHY_KERNELS = "all kernels give the same tokens; scalar ones are far slower"


@dataclass(frozen=True)
class Core:
    """What the core says about itself.

    Attributes:
        error: why it cannot be loaded; empty if it was.
        compiler: that built it.
        cuda, io_uring: built in.
        tensorrt: major versions with an adapter.
        kernels: names that this machine can run, best first.
    """

    error: str = ""
    compiler: str = ""
    cuda: bool = False
    io_uring: bool = False
    kernels: tuple[str, ...] = ()
    tensorrt: tuple[int, ...] = ()


def load_core() -> Core:
    """Import it and ask. Never raises."""
    try:
        from adapmoe import _core
    except ImportError as error:
        return Core(error=str(error))
    info = _core.build_info()
    return Core(
        compiler=info["compiler"],
        cuda=info["cuda"],
        io_uring=info["io_uring"],
        kernels=tuple(map(str, info["kernels"])),
        tensorrt=info["tensorrt"],
    )


def io_uring_problem(path: Path) -> str | None:
    """Why `path` cannot be read through io_uring, "" where it can; None without a core."""
    try:
        from adapmoe import _core
    except ImportError:
        return None
    return _core.io_uring_problem(str(path))


def memory_limits(root: str) -> list[tuple[str, int, int]] | None:
    """As `_core.memory_limits`; None without a core."""
    try:
        from adapmoe import _core
    except ImportError:
        return None
    return _core.memory_limits(root)


def pack_problem(pack: Path) -> str:
    """Why `pack` cannot be opened; "" where it can, as far as its manifest and sizes tell."""
    try:
        from adapmoe.pack.manifest import Manifest

        Manifest.read(pack)
    except (AdapmoeError, ImportError) as error:
        return str(error)
    return ""


def examine_core(core: Core, *, gpu: bool) -> list[Finding]:
    """`gpu`: whether there is one that a build without CUDA leaves unused."""
    if core.error:
        remedy = "pip install --force-reinstall adapmoe, with this Python"
        return [Finding("build", "problem", f"cannot be loaded: {core.error}", _WHY, remedy)]
    engines = "TensorRT " + " and ".join(map(str, core.tensorrt))
    parts = {"CUDA": core.cuda, engines.strip(): bool(core.tensorrt), "io_uring": core.io_uring}
    present = ", ".join(name for name, built in parts.items() if built)
    absent = ", ".join(name for name, built in parts.items() if not built)
    seen = f"GCC or clang {core.compiler}; with {present or 'nothing optional'}"
    if absent:
        seen += f"; without {absent}"
    remedies = []
    if gpu and not core.cuda:
        remedies.append("install the CUDA toolkit")
    if gpu and core.cuda and not core.tensorrt:
        remedies.append("sudo apt install libnvinfer-headers-dev")
    if not core.io_uring:
        remedies.append("sudo apt install liburing-dev")
    if not remedies:
        return [Finding("build", "ok", seen, _WHY)]
    remedy = f"{', '.join(remedies)}, then install adapmoe from source again"
    return [Finding("build", "note", seen, _WHY, remedy)]


def examine_kernels(core: Core, flags: list[str]) -> list[Finding]:
    """`flags`: what the processor has of what kernels use."""
    if not core.kernels:
        return []
    chosen = core.kernels[0]
    has = f"; the processor has {' '.join(flags)}" if flags else ""
    seen = f"{chosen} of {', '.join(core.kernels)}{has}"
    if chosen != "scalar":
        return [Finding("kernels", "ok", seen, _WHY_KERNELS)]
    remedy = "a processor with AVX2, FMA and F16C, or Arm with dot products (asimddp)"
    return [Finding("kernels", "warning", seen, _WHY_KERNELS, remedy)]


_FOLDER = "usr/local/cuda"


def find_nvcc(machine: Machine) -> str | None:
    """What the environment names; `/usr/local/cuda`; the newest of `/usr/local/cuda-*`."""
    named = machine.nvcc()
    if named is not None:
        return named
    for folder in _folders(machine.tree):
        if machine.tree.exists(f"{folder}/bin/nvcc"):
            return f"/{folder}/bin/nvcc"
    return None


def nvcc_version(machine: Machine, nvcc: str) -> str | None:
    """Such as "13.0.88"; None where it does not answer."""
    found = re.search(r"release [\d.]+, V([\d.]+)", machine.run([nvcc, "--version"]) or "")
    return found[1] if found else None


def bare_toolkit(tree: KernelTree) -> str | None:
    """A toolkit's folder, for machines where none has a compiler; with the version it states."""
    for folder in _folders(tree):
        if tree.exists(folder):
            version = _stated_version(tree, folder)
            return f"/{folder}" + (f" (CUDA {version})" if version else "")
    return None


def _folders(tree: KernelTree) -> list[str]:
    versions = [f"usr/local/{n}" for n in tree.names("usr/local") if n.startswith("cuda-")]
    return [_FOLDER, *sorted(versions, key=_numbers, reverse=True)]


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _stated_version(tree: KernelTree, folder: str) -> str | None:
    try:
        return str(json.loads(tree.text(f"{folder}/version.json") or "")["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        return None
