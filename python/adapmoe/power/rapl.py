# SPDX-License-Identifier: Apache-2.0
"""Energy counters of x86 processors (RAPL), as the kernel's powercap class reports them."""

import re

from adapmoe.kernel_tree import KernelTree

_CLASS = "sys/class/powercap"
_DOMAIN = re.compile(r"intel-rapl:\d+(:\d+)?")  # intel-rapl-mmio repeats the package
# "core" and "uncore" are inside the package; "psys" is the platform, and contains it.
_COUNTED = re.compile(r"package-\d+|dram")


def counters(tree: KernelTree) -> dict[str, str]:
    """{folder: name} of the packages and their memory, whether they may be read or not."""
    folders = [f"{_CLASS}/{name}" for name in tree.names(_CLASS) if _DOMAIN.fullmatch(name)]
    names = {folder: tree.text(f"{folder}/name") or "" for folder in folders}
    return {folder: name for folder, name in names.items() if _COUNTED.fullmatch(name)}


class Rapl:
    """Adds up what the counters advance. They wrap, and must be read more often than that."""

    def __init__(self, tree: KernelTree, folders: dict[str, str], last: dict[str, int]) -> None:
        """Use `find`."""
        self._tree = tree
        self._folders = folders
        self._last = last
        self._range = {f: tree.number(f"{f}/max_energy_range_uj") or 0 for f in folders}
        self._microjoules = 0

    @classmethod
    def find(cls, tree: KernelTree) -> "Rapl | None":
        """None where there are no counters, or only root may read them."""
        folders = counters(tree)
        last = {f: value for f in folders if (value := tree.number(f"{f}/energy_uj")) is not None}
        return cls(tree, folders, last) if folders and last.keys() == folders.keys() else None

    @property
    def name(self) -> str:
        """What is measured."""
        return f"RAPL {' + '.join(sorted(self._folders.values()))}"

    def joules(self) -> float | None:
        """Since `find`; None if a counter has vanished or is not to be understood."""
        for folder in self._folders:
            now = self._tree.number(f"{folder}/energy_uj")
            if now is None:
                return None
            if now < self._last[folder]:
                if not self._range[folder]:
                    return None
                self._microjoules += self._range[folder]
            self._microjoules += now - self._last[folder]
            self._last[folder] = now
        return self._microjoules / 1e6
