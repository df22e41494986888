# SPDX-License-Identifier: Apache-2.0
"""Clocks: how the kernel chooses them, and on a Jetson whether jetson_clocks holds them up."""

from collections import Counter

from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine
from adapmoe.kernel_tree import KernelTree

_WHY = "a decode step waits for reads many times, and clocks that fall meanwhile have to rise again"
_FIXED = ("performance",)


def governors(tree: KernelTree) -> Counter[str]:
    """{governor: number of clusters or cores}; empty where frequencies cannot be seen."""
    files = tree.glob("sys/devices/system/cpu/cpufreq/policy*/scaling_governor")
    return Counter(name for path in files if (name := tree.text(path)))


def clocks_are_held(tree: KernelTree, folder: str, least: str, most: str) -> bool | None:
    """Whether a clock cannot fall because its least equals its most; None where unknown."""
    low, high = tree.number(f"{folder}/{least}"), tree.number(f"{folder}/{most}")
    return None if low is None or high is None else low == high


def examine_clocks(machine: Machine) -> list[Finding]:
    """CPU clocks, and the GPU's where they can be seen."""
    tree = machine.tree
    gpus = [n for n in tree.names("sys/class/devfreq") if n.endswith((".gpu", ".ga10b"))]
    findings = [_cpu(machine)]
    for name in gpus if machine.is_jetson else []:
        held = clocks_are_held(tree, f"sys/class/devfreq/{name}", "min_freq", "max_freq")
        findings.append(_held("gpu_clocks", f"{name}", held))
    return findings


def _cpu(machine: Machine) -> Finding:
    tree = machine.tree
    found = governors(tree)
    if not found and machine.is_jetson:
        return _held("cpu_clocks", "CPU", None)
    if not found:
        seen = "frequencies not to be seen: a virtual machine, or fixed"
        return Finding("cpu_clocks", "ok", seen, _WHY)
    seen = "governor " + ", ".join(sorted(found))
    policies = tree.glob("sys/devices/system/cpu/cpufreq/policy*")
    held = [clocks_are_held(tree, p, "scaling_min_freq", "scaling_max_freq") for p in policies]
    if all(name in _FIXED for name in found) or all(held):
        return Finding("cpu_clocks", "ok", seen, _WHY)
    if machine.is_jetson:
        return _held("cpu_clocks", seen, False if False in held else None)
    remedy = "for steady figures: sudo cpupower frequency-set -g performance"
    return Finding("cpu_clocks", "note", seen, _WHY, remedy)


def _held(topic: str, name: str, held: bool | None) -> Finding:
    if held is None:
        remedy = "on the host: sudo jetson_clocks --show"
        return Finding(topic, "note", f"{name}: clocks not to be seen", _WHY, remedy)
    if held:
        return Finding(topic, "ok", f"{name}, clocks held up", _WHY)
    remedy = "sudo jetson_clocks, after nvpmodel; until the next boot"
    return Finding(topic, "warning", f"{name}, clocks fall when idle", _WHY, remedy)
