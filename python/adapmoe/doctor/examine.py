# SPDX-License-Identifier: Apache-2.0
"""All topics in the order of the report."""

import platform
from pathlib import Path

from adapmoe.doctor.build import (
    Core,
    cpu_flags,
    cpu_name,
    examine_core,
    examine_kernels,
    load_core,
    pack_problem,
)
from adapmoe.doctor.disk import (
    Trial,
    examine_depths,
    examine_disk_access,
    examine_nvme,
    try_depths,
    try_reading,
)
from adapmoe.doctor.gpu import examine_cuda, examine_tensorrt, find_driver
from adapmoe.doctor.jetson import (
    examine_clocks,
    examine_energy,
    examine_jetpack,
    examine_power_mode,
)
from adapmoe.doctor.machine import Finding, Machine
from adapmoe.doctor.memory import examine_cgroup, examine_memory, examine_swap


def examine(pack: Path | None = None) -> list[Finding]:
    """Look at this machine. Needs no root, and never raises because something is missing.

    What it finds out about the queue depth for `pack` is remembered.

    Args:
        pack: read there; None: in the current folder.
    """
    folder = (pack or Path()).resolve()
    findings = examine_machine(Machine(), load_core(), str(folder), try_reading(folder))
    return findings if pack is None else [*findings, *_examine_pack(pack)]


def examine_machine(machine: Machine, core: Core, folder: str, trial: Trial) -> list[Finding]:
    """What `examine` does, on any machine.

    Args:
        machine: to look at.
        core: what the compiled core says.
        folder: an absolute path, of packs.
        trial: what reading there gave.
    """
    system = f"{cpu_name(machine)}; Linux {machine.tree.text('proc/sys/kernel/osrelease') or '?'}"
    driver = find_driver(machine)
    gpu = machine.is_jetson or driver is not None
    return [
        Finding("system", "ok", f"{system}; Python {platform.python_version()}", "for reports"),
        *examine_jetpack(machine),
        *examine_cuda(machine, driver),
        *examine_tensorrt(machine),
        *examine_core(core, gpu=gpu),
        *examine_kernels(core, cpu_flags(machine.tree)),
        *examine_memory(machine),
        *examine_cgroup(machine),
        *examine_swap(machine),
        *examine_nvme(machine, folder),
        *examine_disk_access(machine, folder, trial),
        *examine_power_mode(machine),
        *examine_clocks(machine),
        *examine_energy(machine),
    ]


def _examine_pack(pack: Path) -> list[Finding]:
    why = "a pack that cannot be opened cannot run"
    problem = pack_problem(pack)
    if not problem:
        right = Finding("pack", "ok", f"{pack}: manifest and file sizes are right", why)
        return [right, examine_depths(pack, try_depths(pack))]
    return [Finding("pack", "problem", problem, why, "copy or export it again")]
