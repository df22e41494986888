# SPDX-License-Identifier: Apache-2.0
"""The processor: its name and the features that kernels use."""

from adapmoe.doctor.machine import Machine
from adapmoe.kernel_tree import KernelTree

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
