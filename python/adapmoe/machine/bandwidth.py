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

DEFAULT_READ_DEPTH = 4
_DEPTHS = (4, 2, 8, 16, 32)  # the default first
_REQUESTS = {512 << 10: (16, 32), 2 << 20: (8, 16)}  # bytes -> depths, for larger tiles
_BURST_BYTES = 48 << 20
_MIN_BURST_TILES = 4
_MIN_ROUNDS = 3
_MIN_GAIN = 1.15  # how much faster than the default a setting must be to replace it
_SEED = 20240814

# Read by all threads together: so much that what a last-level cache holds of it hardly counts.
_MEMORY_TEST_BYTES = 256 << 20


def open_direct(path: Path) -> tuple[int, bool]:
    """Open a file for reading, past the page cache where the file system allows it.

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

    It is private and asks for huge pages, like the runtime's arena: the same reads into the small
    pages of shared memory can take twice as long.
    """
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size + _HUGE_PAGE, flags=private) as mapping:
        with suppress(OSError):
            mapping.madvise(mmap.MADV_HUGEPAGE)
        with memoryview(mapping)[:size] as buffer:
            yield buffer


@dataclass(frozen=True)
class Tiles:
    """`count` tiles of `tile_bytes` each, one after another in a file from `offset` on."""

    file: Path
    offset: int
    tile_bytes: int
    count: int


@dataclass(frozen=True)
class DiskSpeed:
    """How fast one setting reads bursts of tiles, from an idle disk to the last tile's arrival.

    Attributes:
        read_depth: reads at the same time.
        bytes_per_s: median of the bursts.
        direct: whether the page cache was bypassed; if not, this may be the speed of memory.
        request_bytes: largest single read; 0: a whole tile.
        gain: speed relative to the default in the same round, the lower quartile of the rounds.
    """

    read_depth: int
    bytes_per_s: float
    direct: bool
    request_bytes: int = 0
    gain: float = 1.0


@dataclass(frozen=True)
class DiskProbe:
    """The speed of every setting that was tried.

    Attributes:
        reader: what read, "io_uring" or "pread".
        tile_bytes: size of a tile of this pack.
        speeds: the default first; empty if the disk was too slow to try every setting in time.
    """

    reader: str
    tile_bytes: int
    speeds: list[DiskSpeed]

    @property
    def best(self) -> DiskSpeed | None:
        """The setting to use; None without measurements."""
        return choose_speed(self.speeds, self.tile_bytes) if self.speeds else None


def measure_disk(tiles: Tiles, *, reader: str = "auto", seconds: float = 0.6) -> DiskProbe:
    """Measure all settings in turns.

    Args:
        tiles: what to read.
        reader: as for LLM.
        seconds: about how long to measure. The limit is twice this and one short burst.

    Raises:
        PackError: the file cannot be opened.
        ReadError: it cannot be read.
    """
    from adapmoe import _core

    tile_bytes = tiles.tile_bytes
    max_tiles = min(max(_BURST_BYTES // tile_bytes, _MIN_BURST_TILES), tiles.count)
    probe = _core.ReadProbe(str(tiles.file), reader, max_tiles * tile_bytes)
    bursts = _Bursts(probe, tiles)
    settings = settings_for(tile_bytes)
    end = time.perf_counter() + seconds
    min_tiles = min(_MIN_BURST_TILES, max_tiles)
    speed = bursts.speed(*settings[0], min_tiles)  # wakes the disk, and tells how fast it is
    affordable = int(speed * seconds / (len(settings) * _MIN_ROUNDS)) // tile_bytes
    count = min(max(affordable, min_tiles), max_tiles)
    rounds = _rounds(bursts, settings, count, end, seconds)
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


def choose_speed(speeds: list[DiskSpeed], tile_bytes: int) -> DiskSpeed:
    """The first of `speeds`, the default, unless another is clearly faster in most rounds.

    Of those that are about as fast as the fastest, the one with the fewest bytes in flight: a read
    that is suddenly needed has to wait behind them.
    """
    faster = [speed for speed in speeds if speed.gain >= _MIN_GAIN]
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
    """Bytes per second of every setting, round by round; every other round runs backwards."""
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
    """Bursts of neighbouring tiles, each from another random offset."""

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


def measure_memory(*, threads: int | None = None, seconds: float = 1.0) -> float:
    """Bytes per second that all cores together read from memory, looking for float32 maxima.

    Args:
        threads: None: one per core available to the process.
        seconds: how long to measure; one round is always finished.
    """
    from adapmoe import _core

    count = threads or _core.usable_cpus()
    total = min(_MEMORY_TEST_BYTES, _core.available_memory() // 2)
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
