# SPDX-License-Identifier: Apache-2.0
"""What only a Jetson has: JetPack, power mode, clocks, energy."""

import re
from collections import Counter

from adapmoe.doctor.machine import Finding, Machine
from adapmoe.machine.power import Rails, Rapl, Throttle, counters
from adapmoe.machine.procfs import KernelTree

_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
_WHY_JETPACK = (
    "JetPack brings the CUDA driver and TensorRT; 6.2 and 7.2 are what this package is for"
)
# What to expect where: L4T -> (JetPack, its CUDA and TensorRT).
_KNOWN = {
    "36.4": "JetPack 6.1 or 6.2 (CUDA 12.6, TensorRT 10.3)",
    "36.5": "JetPack 6.2 (CUDA 12.6, TensorRT 10.3)",
    "39.2": "JetPack 7.2 (CUDA 13.2, TensorRT 10.16)",
}


def l4t_release(text: str) -> tuple[int, str] | None:
    """(36, "36.4.4") from the first line of `/etc/nv_tegra_release`; None if it is another file."""
    match = _RELEASE.search(text)
    return (int(match[1]), f"{match[1]}.{match[2]}") if match else None


def examine_jetpack(machine: Machine) -> list[Finding]:
    """One finding; on other machines too, because a container may hide the release."""
    if not machine.is_jetson:
        return [Finding("jetpack", "ok", "not a Jetson", _WHY_JETPACK)]
    board = machine.model or "a Jetson"
    found = l4t_release(machine.tree.text("etc/nv_tegra_release") or "")
    if found is None:
        return [
            Finding(
                "jetpack",
                "note",
                f"{board}; no /etc/nv_tegra_release",
                _WHY_JETPACK,
                "in a container, mount the file: -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro",
            )
        ]
    major, release = found
    name = _KNOWN.get(".".join(release.split(".")[:2]), "a JetPack that this package does not know")
    seen = f"{board}, L4T {release}: {name}"
    if major < 36:
        return [Finding("jetpack", "warning", seen, _WHY_JETPACK, "flash JetPack 6.2 or 7.2")]
    if "does not know" in name:
        remedy = "go by the findings below; where they are not enough, flash JetPack 6.2 or 7.2"
        return [Finding("jetpack", "note", seen, _WHY_JETPACK, remedy)]
    return [Finding("jetpack", "ok", seen, _WHY_JETPACK)]


_WHY_POWER_MODE = "it caps the clocks of CPU, GPU and memory, and switches cores off"
_MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
_STATUS = re.compile(r"pmode:(\d+)")
_QUERY = re.compile(r"^NV Power Mode:\s*(\S+)", re.MULTILINE)


def power_modes(text: str) -> dict[int, str]:
    """{0: "MAXN", ...} from `/etc/nvpmodel.conf`."""
    return {int(number): name for number, name in _MODE.findall(text)}


def fastest_mode(modes: dict[int, str]) -> int | None:
    """The mode without a cap, MAXN or MAXN_SUPER; numbers say nothing about speed."""
    unlimited = [number for number, name in modes.items() if name.startswith("MAXN")]
    return max(unlimited, key=lambda number: len(modes[number]), default=None)


def current_mode(machine: Machine, modes: dict[int, str]) -> str | None:
    """Its name: from the file that nvpmodel keeps, else from nvpmodel itself."""
    match = _STATUS.search(machine.tree.text("var/lib/nvpmodel/status") or "")
    if match:
        return modes.get(int(match[1]), f"number {int(match[1])}")
    match = _QUERY.search(machine.run(["nvpmodel", "-q"]) or "")
    return match[1] if match else None


def examine_power_mode(machine: Machine) -> list[Finding]:
    """One finding on a Jetson, none elsewhere."""
    if not machine.is_jetson:
        return []
    modes = power_modes(machine.tree.text("etc/nvpmodel.conf") or "")
    mode, best = current_mode(machine, modes), fastest_mode(modes)
    if mode is None:
        return [
            Finding(
                "power_mode", "note", "unknown", _WHY_POWER_MODE, "on the host: sudo nvpmodel -q"
            )
        ]
    if best is None or mode == modes[best]:
        return [Finding("power_mode", "ok", mode, _WHY_POWER_MODE)]
    remedy = f"sudo nvpmodel -m {best} sets {modes[best]}, where power and cooling allow it"
    return [Finding("power_mode", "warning", mode, _WHY_POWER_MODE, remedy)]


_WHY_CLOCKS = (
    "a decode step waits for reads many times, and clocks that fall meanwhile have to rise again"
)
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
        return Finding("cpu_clocks", "ok", seen, _WHY_CLOCKS)
    seen = "governor " + ", ".join(sorted(found))
    policies = tree.glob("sys/devices/system/cpu/cpufreq/policy*")
    held = [clocks_are_held(tree, p, "scaling_min_freq", "scaling_max_freq") for p in policies]
    if all(name in _FIXED for name in found) or all(held):
        return Finding("cpu_clocks", "ok", seen, _WHY_CLOCKS)
    if machine.is_jetson:
        return _held("cpu_clocks", seen, False if False in held else None)
    remedy = "for steady figures: sudo cpupower frequency-set -g performance"
    return Finding("cpu_clocks", "note", seen, _WHY_CLOCKS, remedy)


def _held(topic: str, name: str, held: bool | None) -> Finding:
    if held is None:
        remedy = "on the host: sudo jetson_clocks --show"
        return Finding(topic, "note", f"{name}: clocks not to be seen", _WHY_CLOCKS, remedy)
    if held:
        return Finding(topic, "ok", f"{name}, clocks held up", _WHY_CLOCKS)
    remedy = "sudo jetson_clocks, after nvpmodel; until the next boot"
    return Finding(topic, "warning", f"{name}, clocks fall when idle", _WHY_CLOCKS, remedy)


_WHY_ENERGY = "statistics then have joules per token"
_WHY_THROTTLE = "clocks are lowered to stay within limits of heat or current"


def examine_energy(machine: Machine) -> list[Finding]:
    """Rails or counters, and cooling devices that are at work."""
    return [_energy(machine), *_throttling(machine)]


def _energy(machine: Machine) -> Finding:
    found = Rails.find(machine.tree) or Rapl.find(machine.tree)
    if found:
        return Finding("energy", "ok", found.name, _WHY_ENERGY)
    if counters(machine.tree):
        remedy = "sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj, until the next boot"
        return Finding("energy", "note", "RAPL, which only root may read", _WHY_ENERGY, remedy)
    return Finding("energy", "ok", "neither power rails nor energy counters", _WHY_ENERGY)


def _throttling(machine: Machine) -> list[Finding]:
    throttle = Throttle(machine.tree)
    if not throttle.available:
        return []
    active = throttle.active()
    if not active:
        return [Finding("throttling", "ok", "not now", _WHY_THROTTLE)]
    remedy = "more air: check fan and heat sink; or a lower power mode"
    return [Finding("throttling", "warning", ", ".join(active), _WHY_THROTTLE, remedy)]
