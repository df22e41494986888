# SPDX-License-Identifier: Apache-2.0
"""The CUDA compiler, looked for where runtime/find_nvcc.cmake does: what a build here takes."""

import json
import re

from adapmoe.doctor.machine import Machine
from adapmoe.kernel_tree import KernelTree

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
