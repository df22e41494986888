# SPDX-License-Identifier: Apache-2.0
"""Runs jobs on several threads: how many at once, and their results in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from adapmoe import _core
from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.plan import PackPlan

T = TypeVar("T")

_MEMORY_BYTES = 160 << 20  # for tiles being packed, and packed ones that wait to be written
_MAX_WORKERS = 16  # pieces of dense matrices may be larger than a small model's tiles


def choose_workers(checkpoint: HfCheckpoint, plan: PackPlan) -> tuple[int, int]:
    """(tiles at once, threads for each). Many cores share fewer tiles, to bound the memory."""
    threads = plan.options.threads or _core.usable_cpus()
    itemsize = max(checkpoint.itemsize(spec) for spec in plan.sources())
    rows_bytes = 2 * plan.tiling.tile_width * plan.config.hidden_size * itemsize
    fitting = max(1, _MEMORY_BYTES // (rows_bytes + 2 * plan.tiling.tile_bytes))
    workers = min(threads, _MAX_WORKERS, fitting)
    return workers, -(-threads // workers)


def in_order(jobs: Iterable[Callable[[], T]], workers: int) -> Generator[T, None, None]:
    """The jobs' results, in the order of the jobs, of which at most `workers` + 1 are in memory.

    A job's exception comes out in its place. Close the iterator (contextlib.closing) to wait for
    the jobs that are running and drop the others.
    """
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[T]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(job))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
