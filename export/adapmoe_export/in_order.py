# SPDX-License-Identifier: Apache-2.0
"""Runs jobs on several threads and hands out their results in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


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
