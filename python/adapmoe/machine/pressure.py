# SPDX-License-Identifier: Apache-2.0
"""How short memory is: MemAvailable, limits of control groups, and pressure stall information.

PSI is the kernel's own measure, Documentation/accounting/psi.rst: the time in which some task
waited for memory. The machine's stands in /proc/pressure/memory, that of a group (cgroup v2) beside
its limit in memory.pressure.
"""

import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from adapmoe import _core
from adapmoe.machine.procfs import KernelTree

# Of a limit, at most so much stays free: who set it counted what the server needs.
MOST_BELOW_LIMIT = 128 << 20  # bytes
AHEAD_S = 1.0  # giving memory back takes a layer's time, and others go on taking it meanwhile
_HALF_LIFE_S = 0.5  # of what is known about how fast they do


@dataclass(frozen=True)
class MemoryState:
    """The memory beside a process at one moment.

    Attributes:
        room_bytes: how much more this process could take.
        spare_bytes: how much of it will be left beyond what is to stay free if others take memory
            for AHEAD_S as fast as they did lately; negative: so much will be missing.
        stalled: the share of the time since the last look in which some task, of the machine or of
            this process's control groups, waited for memory, 0 to 1.
    """

    room_bytes: int
    spare_bytes: int
    stalled: float


class MemoryWatch:
    """Looks at the memory again and again."""

    def __init__(
        self,
        keep_free: int,
        tree: KernelTree | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to watch.

        Args:
            keep_free: bytes that the machine's other programs should still find; below the limit
                of a control group, at most MOST_BELOW_LIMIT of them.
            tree: where the kernel's files are; None: where they always are.
            clock: seconds.
        """
        self._keep_free = keep_free
        self._tree = tree or KernelTree()
        self._clock = clock
        self._looked_at = clock()
        self._rooms: dict[str, int] = {}  # by file, then
        self._speeds: dict[str, float] = {}  # by file, at which others take memory, bytes/s
        self._own = 0  # bytes of this process then
        self._stalls: dict[str, int] = {}  # by file, microseconds up to then
        groups = {PurePosixPath(file).parent for file, _, _ in self._limits()}
        below_root = len(self._tree.root) + 1
        files = [str(group / "memory.pressure")[below_root:] for group in groups]
        self._pressure_files = ["proc/pressure/memory", *filter(self._tree.exists, files)]
        self.look()

    def look(self) -> MemoryState:
        """The state now."""
        now = self._clock()
        seconds, self._looked_at = now - self._looked_at, now
        available = self._tree.meminfo("MemAvailable")
        rooms = {} if available is None else {"": (available, self._keep_free)}
        below_limit = min(self._keep_free, MOST_BELOW_LIMIT)
        rooms |= {file: (room, below_limit) for file, _, room in self._limits()}
        if not rooms:  # no /proc: nothing is known, so nothing is short
            return MemoryState(0, 0, 0.0)
        self._measure_speeds({file: room for file, (room, _) in rooms.items()}, seconds)
        spare = min(
            room - kept - round(AHEAD_S * self._speeds[file])
            for file, (room, kept) in rooms.items()
        )
        return MemoryState(min(room for room, _ in rooms.values()), spare, self._stalled(seconds))

    def _measure_speeds(self, rooms: dict[str, int], seconds: float) -> None:
        """How fast memory goes to others than this process."""
        words = (self._tree.text("proc/self/statm") or "").split()
        own = int(words[1]) * mmap.PAGESIZE if words else 0
        more, self._own = own - self._own, own
        faded = 0.5 ** (seconds / _HALF_LIFE_S)
        for file, room in rooms.items():
            taken = self._rooms.get(file, room) - room - more if seconds > 0 else 0
            self._speeds[file] = max(taken / max(seconds, 1e-3), self._speeds.get(file, 0) * faded)
        self._rooms = rooms

    def _limits(self) -> list[tuple[str, int, int]]:
        return _core.memory_limits(self._tree.root)

    def _stalled(self, seconds: float) -> float:
        worst = 0.0
        for file in self._pressure_files:
            total = _total_us(self._tree.text(file))
            if total is None:
                continue
            stalled_s = (total - self._stalls.get(file, total)) / 1e6
            self._stalls[file] = total
            if seconds > 0:
                worst = max(worst, stalled_s / seconds)
        return min(worst, 1.0)


def _total_us(text: str | None) -> int | None:
    """The total of the line "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"; None without one."""
    for line in (text or "").splitlines():
        words = line.split()
        if words[:1] == ["some"] and words[-1].startswith("total="):
            digits = words[-1].removeprefix("total=")
            return int(digits) if digits.isdigit() else None
    return None
