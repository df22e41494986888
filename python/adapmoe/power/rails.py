# SPDX-License-Identifier: Apache-2.0
"""Power rails of a Jetson, as its INA3221 monitors report them through hwmon."""

import re

from adapmoe.kernel_tree import KernelTree

_LABELS = "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label"
_LABEL = re.compile(r"(.*)/in(\d+)_label")
_TOTAL = "VDD_IN"  # the whole module, where it is measured
_WITHIN = {"VDDQ_VDD2_1V8AO"}  # fed from VIN_SYS_5V0, which is counted


class Rails:
    """The rails whose sum is the module's power. Without VDD_IN (AGX Orin): all that are labelled.

    Each is a voltage in mV and a current in mA.
    """

    def __init__(self, tree: KernelTree, files: dict[str, tuple[str, str]]) -> None:
        """`files`: {label: (file of the voltage, file of the current)}; at least one."""
        self._tree = tree
        self._files = files

    @classmethod
    def find(cls, tree: KernelTree) -> "Rails | None":
        """None where there is no rail that can be read."""
        files = {}
        for path in tree.glob(_LABELS):
            label, match = tree.text(path), _LABEL.fullmatch(path)
            if not label or match is None or label == "NC" or label in _WITHIN:
                continue
            folder, number = match[1], match[2]
            voltage, current = f"{folder}/in{number}_input", f"{folder}/curr{number}_input"
            # Shunt voltages have a label too, but no current.
            if tree.number(voltage) is not None and tree.number(current) is not None:
                files[label] = (voltage, current)
        if _TOTAL in files:
            files = {_TOTAL: files[_TOTAL]}
        return cls(tree, files) if files else None

    @property
    def name(self) -> str:
        """What is measured."""
        return f"INA3221 {' + '.join(sorted(self._files))}"

    def watts(self) -> float | None:
        """The sum now; None if a rail has vanished."""
        total = 0
        for voltage_file, current_file in self._files.values():
            voltage, current = self._tree.number(voltage_file), self._tree.number(current_file)
            if voltage is None or current is None:
                return None
            total += voltage * current
        return total / 1e6
