# SPDX-License-Identifier: Apache-2.0
"""How fast this machine reads: from a disk, at several queue depths, and from memory."""

import mmap
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from adapmoe import _core
_HUGE_PAGE = 2 << 20


def open_direct(path: Path) -> tuple[int, bool]:
    """Open for reading.

    Returns:
        The descriptor, and whether the page cache is bypassed.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT), True
    except OSError:  # tmpfs and some overlays
        return os.open(path, os.O_RDONLY), False


@contextmanager
def read_buffer(size: int) -> Iterator[memoryview]:
    """Memory of `size` bytes, page-aligned, as O_DIRECT wants it.

    Private and advised to have huge pages, like the runtime's arena: into the small pages of shared
    memory the same reads can take twice as long.
    """
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size + _HUGE_PAGE, flags=private) as mapping:
        with suppress(OSError):
            mapping.madvise(mmap.MADV_HUGEPAGE)
        with memoryview(mapping)[:size] as buffer:
            yield buffer


DEFAULT_READ_DEPTH = 4
_DEPTHS = (4, 2, 8, 16, 32)  # the default first
_REQUESTS = {512 << 10: (16, 32), 2 << 20: (8, 16)}  # bytes -> depths, for larger tiles
_BURST_BYTES = 48 << 20
_FIRST_TILES = 4
_ROUNDS = 3  # wanted; more where time is left
_WORTH = 1.15
_SEED = 20240814


@dataclass(frozen=True)
class Tiles:
    """Pieces of a file that follow each other: `count` of `tile_bytes` each, from `offset` on."""

    file: Path
    offset: int
    tile_bytes: int
    count: int


@dataclass(frozen=True)
class DiskSpeed:
    """Bursts of tiles from a random place, each from idle to the last arrival.

    Attributes:
        read_depth: reads at the same time.
        bytes_per_s: median of the bursts.
        direct: whether the page cache was bypassed; if not, the figure may be memory's.
        request_bytes: of one read at most; 0: a whole tile.
        gain: over the default in the same round, the lower quartile of the rounds.
    """

    read_depth: int
    bytes_per_s: float
    direct: bool
    request_bytes: int = 0
    gain: float = 1.0


@dataclass(frozen=True)
class DiskProbe:
    """What was measured, the default first.

    Attributes:
        reader: that read, "io_uring" or "pread".
        tile_bytes: of this pack.
        speeds: empty where the disk is so slow that not every setting had its turn in time.
    """

    reader: str
    tile_bytes: int
    speeds: list[DiskSpeed]

    @property
    def best(self) -> DiskSpeed | None:
        """The setting to use; None without measurements."""
        return choose(self.speeds, self.tile_bytes) if self.speeds else None


def measure_disk(tiles: Tiles, *, reader: str = "auto", seconds: float = 0.6) -> DiskProbe:
    """Measure settings in turns, in the memory of one burst.

    Args:
        tiles: what to read.
        reader: as for LLM.
        seconds: about how long; at most twice as long, and one burst of some tiles.

    Raises:
        PackError: the file cannot be opened.
        ReadError: it cannot be read.
    """
    from adapmoe import _core

    tile_bytes = tiles.tile_bytes
    most = min(max(_BURST_BYTES // tile_bytes, _FIRST_TILES), tiles.count)
    probe = _core.ReadProbe(str(tiles.file), reader, most * tile_bytes)
    bursts = _Bursts(probe, tiles)
    settings = settings_for(tile_bytes)
    end = time.perf_counter() + seconds
    first = min(_FIRST_TILES, most)
    speed = bursts.speed(*settings[0], first)  # wakes the disk, and says what can be afforded
    affordable = int(speed * seconds / (len(settings) * _ROUNDS)) // tile_bytes
    rounds = _rounds(bursts, settings, min(max(affordable, first), most), end, seconds)
    speeds = [
        DiskSpeed(read_depth, median(column), probe.direct, request_bytes, _gain(column, rounds))
        for (read_depth, request_bytes), column in zip(
            settings, zip(*rounds, strict=True), strict=False
        )
    ]
    return DiskProbe(probe.reader, tile_bytes, speeds)


def settings_for(tile_bytes: int) -> list[tuple[int, int]]:
    """(read_depth, request_bytes) worth trying, the default first."""
    pieces = [(n, size) for size, ns in _REQUESTS.items() if size < tile_bytes for n in ns]
    return [(read_depth, 0) for read_depth in _DEPTHS] + pieces


def choose(speeds: list[DiskSpeed], tile_bytes: int) -> DiskSpeed:
    """The first of `speeds`, the default, unless another is clearly faster in most rounds.

    Then what has the least in flight of those about as fast as the fastest: reads for a need that
    has just come up wait behind what is in flight.
    """
    faster = [speed for speed in speeds if speed.gain >= _WORTH]
    if not faster:
        return speeds[0]
    best = max(speed.bytes_per_s for speed in faster)
    enough = [speed for speed in faster if speed.bytes_per_s >= 0.95 * best]
    return min(enough, key=lambda speed: speed.read_depth * (speed.request_bytes or tile_bytes))


def _gain(column: tuple[float, ...], rounds: list[list[float]]) -> float:
    ratios = sorted(speed / of[0] for speed, of in zip(column, rounds, strict=True))
    return ratios[len(ratios) // 4]


def _rounds(
    bursts: "_Bursts", settings: list[tuple[int, int]], tiles: int, end: float, seconds: float
) -> list[list[float]]:
    """Bytes per second of every setting, in rounds; every other round goes backwards."""
    rounds: list[list[float]] = []
    begin = time.perf_counter()
    while True:
        found: dict[tuple[int, int], float] = {}
        for setting in settings if len(rounds) % 2 == 0 else settings[::-1]:
            if time.perf_counter() > end + seconds:
                return rounds
            found[setting] = bursts.speed(*setting, tiles)
        rounds.append([found[setting] for setting in settings])
        now = time.perf_counter()
        if now + (now - begin) / len(rounds) > end:
            return rounds


class _Bursts:
    """Bursts of neighbouring tiles, each from another random place."""

    def __init__(self, probe: "_core.ReadProbe", tiles: Tiles) -> None:
        self._probe, self._tiles = probe, tiles
        self._random = random.Random(_SEED)

    def speed(self, read_depth: int, request_bytes: int, count: int) -> float:
        """Bytes per second of one of `count` tiles."""
        tile_bytes = self._tiles.tile_bytes
        first = self._random.randrange(self._tiles.count - count + 1)
        offset = self._tiles.offset + first * tile_bytes
        seconds = self._probe.seconds(read_depth, request_bytes, offset, tile_bytes, count)
        return count * tile_bytes / max(seconds, 1e-9)


# Of all threads: what a last-level cache holds of it hardly counts. In a small container, half of
# what may be taken.
_BYTES = 256 << 20


def measure_memory(*, threads: int | None = None, seconds: float = 1.0) -> float:
    """Bytes per second that all cores read together from memory in float32 maxima.

    Args:
        threads: None: one per core available to the process.
        seconds: at least one round is measured even if it takes longer.
    """
    from adapmoe import _core

    count = threads or _core.usable_cpus()
    total = min(_BYTES, _core.available_memory() // 2)
    parts = [np.ones(max(total // 4 // count, 1), np.float32) for _ in range(count)]
    size = sum(part.nbytes for part in parts)
    best, deadline = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < deadline:
        workers = [threading.Thread(target=part.max) for part in parts]
        begin = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, size / (time.perf_counter() - begin))
    return best
