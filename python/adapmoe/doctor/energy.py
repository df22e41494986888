# SPDX-License-Identifier: Apache-2.0
"""Whether energy can be measured, and whether the machine is slowed down now."""

from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine
from adapmoe.power.rails import Rails
from adapmoe.power.rapl import Rapl, counters
from adapmoe.power.throttle import Throttle

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
