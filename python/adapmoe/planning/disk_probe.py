# SPDX-License-Identifier: Apache-2.0
"""How fast the disk delivers experts in random order, measured on the pack's own file."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from adapmoe.direct_read import open_direct, read_buffer
from adapmoe.errors import ReadError

_SEED = 20240814
_ROUNDS = 3


@dataclass(frozen=True)
class DiskSpeed:
    """Reads of one tile each, at most two experts outstanding.

    Attributes:
        readers: threads that read at the same time.
        bytes_per_s: of all of them together.
        direct: whether the page cache was bypassed; if not, the figure may be memory's.
    """

    readers: int
    bytes_per_s: float
    direct: bool


def measure_disk(pack: Path, manifest: dict[str, Any], *, seconds: float = 3.0) -> list[DiskSpeed]:
    """Measure 1, 2, 4 and 8 readers, as far as two experts have tiles for them.

    Args:
        pack: its directory.
        manifest: its manifest.
        seconds: for all of it.

    Raises:
        ReadError: the file cannot be read.
    """
    experts = manifest["experts"]
    path = pack / experts["file"]
    # Tiles are read in order, so up to tiles + 1 of them at a time belong to two experts.
    counts = [n for n in (1, 2, 4, 8) if n <= experts["tiles"] + 1]
    try:
        descriptor, direct = open_direct(path)
        try:
            rounds = [  # interleaved: what else the machine does hits all of them
                [_speed(descriptor, experts, n, seconds / len(counts) / _ROUNDS) for n in counts]
                for _ in range(_ROUNDS)
            ]
        finally:
            os.close(descriptor)
        speeds = [median(column) for column in zip(*rounds, strict=True)]
        return [DiskSpeed(n, v, direct) for n, v in zip(counts, speeds, strict=True)]
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror}") from error


def fewest_readers(speeds: list[DiskSpeed], worth: float = 0.1) -> DiskSpeed:
    """The first after which more readers gain less than `worth`."""
    best = max(speed.bytes_per_s for speed in speeds)
    return next(speed for speed in speeds if speed.bytes_per_s >= best / (1 + worth))


def _speed(descriptor: int, experts: dict[str, Any], readers: int, seconds: float) -> float:
    tiles = _random_tiles(experts)
    lock = threading.Lock()
    deadline = time.perf_counter() + seconds
    done: list[int] = []
    errors: list[OSError] = []

    def next_offset() -> int:
        with lock:
            return next(tiles)

    def work() -> None:
        try:
            done.append(_read_until(deadline, descriptor, experts["tile_bytes"], next_offset))
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(readers)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(done) / (time.perf_counter() - begin)


def _read_until(deadline: float, descriptor: int, size: int, offset: Callable[[], int]) -> int:
    total = 0
    with read_buffer(size) as buffer:
        while time.perf_counter() < deadline:
            total += os.preadv(descriptor, [buffer], offset())
    return total


def _random_tiles(experts: dict[str, Any]) -> Iterator[int]:
    """Offsets of the tiles of one expert after the other, experts in random order, for ever."""
    rng = random.Random(_SEED)
    numbers = list(range(len(experts["crc32c"])))
    while True:
        rng.shuffle(numbers)
        for number in numbers:
            begin = experts["data_offset"] + number * experts["expert_bytes"]
            yield from range(begin, begin + experts["expert_bytes"], experts["tile_bytes"])
