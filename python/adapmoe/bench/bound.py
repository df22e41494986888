# SPDX-License-Identifier: Apache-2.0
"""What no runtime can beat on this machine: computing everything, or reading what was missed."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapmoe.direct_read import open_direct, read_buffer
from adapmoe.errors import ReadError

_OUTSTANDING = 2  # experts: as many as one token of a top-2 model can wait for


@dataclass(frozen=True)
class Bound:
    """Measured in the same round as the runs that are compared with it.

    Attributes:
        compute_s_per_token: without waiting for experts.
        all_resident: whether that was measured with all experts resident, or, where they do not
            fit, beside the reads of the run itself.
        disk_bytes_per_s: random reads of whole experts, two outstanding.
        direct: whether they bypassed the page cache; if not, the figure may be memory's.
    """

    compute_s_per_token: float
    all_resident: bool
    disk_bytes_per_s: float
    direct: bool

    def token_s(self, bytes_per_token: float) -> float:
        """The least seconds for a token that misses so many bytes."""
        return max(self.compute_s_per_token, bytes_per_token / self.disk_bytes_per_s)


def read_experts(pack: Path, experts: dict[str, Any], *, seconds: float) -> tuple[float, bool]:
    """Read experts in random order, two at a time.

    Args:
        pack: its directory.
        experts: the manifest's `experts`.
        seconds: no further read is begun after this time; two are always measured.

    Returns:
        Bytes per second, and whether the page cache was bypassed.

    Raises:
        ReadError: the file cannot be read.
    """
    path = pack / experts["file"]
    try:
        descriptor, direct = open_direct(path)
        try:
            began = time.perf_counter()
            with ThreadPoolExecutor(_OUTSTANDING) as pool:
                jobs = [
                    pool.submit(_read_until, began + seconds, descriptor, experts, seed)
                    for seed in range(_OUTSTANDING)
                ]
                total = sum(job.result() for job in jobs)
            return total / (time.perf_counter() - began), direct
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ReadError(f"{path}: cannot be read: {error.strerror}") from error


def _read_until(deadline: float, descriptor: int, experts: dict[str, Any], seed: int) -> int:
    size, total, numbers = experts["expert_bytes"], 0, random.Random(seed)
    with read_buffer(size) as buffer:
        while True:
            number = numbers.randrange(len(experts["crc32c"]))
            total += os.preadv(descriptor, [buffer], experts["data_offset"] + number * size)
            if time.perf_counter() >= deadline:
                return total
