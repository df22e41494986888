# SPDX-License-Identifier: Apache-2.0
"""Which release of JetPack runs, by its Jetson Linux (L4T) release."""

import re

from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine

_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
_WHY = "JetPack brings the CUDA driver and TensorRT; 6.2 and 7.2 are what this package is for"
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
        return [Finding("jetpack", "ok", "not a Jetson", _WHY)]
    board = machine.model or "a Jetson"
    found = l4t_release(machine.tree.text("etc/nv_tegra_release") or "")
    if found is None:
        return [
            Finding(
                "jetpack",
                "note",
                f"{board}; no /etc/nv_tegra_release",
                _WHY,
                "in a container, mount the file: -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro",
            )
        ]
    major, release = found
    name = _KNOWN.get(".".join(release.split(".")[:2]), "a JetPack that this package does not know")
    seen = f"{board}, L4T {release}: {name}"
    if major < 36:
        return [Finding("jetpack", "warning", seen, _WHY, "flash JetPack 6.2 or 7.2")]
    if "does not know" in name:
        remedy = "go by the findings below; where they are not enough, flash JetPack 6.2 or 7.2"
        return [Finding("jetpack", "note", seen, _WHY, remedy)]
    return [Finding("jetpack", "ok", seen, _WHY)]
