# SPDX-License-Identifier: Apache-2.0
"""How fast memory is read, which bounds decoding with everything resident."""

import threading
import time

import numpy as np

from adapmoe import _core

_BYTES = 256 << 20  # of all threads: what a last-level cache holds of it hardly counts


def measure_memory(*, threads: int | None = None, seconds: float = 1.0) -> float:
    """Bytes per second that all cores read together from memory in float32 maxima.

    Args:
        threads: None: one per core available to the process.
        seconds: at least one round is measured even if it takes longer.
    """
    count = threads or _core.usable_cpus()
    parts = [np.ones(_BYTES // 4 // count, np.float32) for _ in range(count)]
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
