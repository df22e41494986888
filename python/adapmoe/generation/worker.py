# SPDX-License-Identifier: Apache-2.0
"""The thread in which asynchronous streams run their steps."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from adapmoe.errors import ClosedError
from adapmoe.machine.process import OpenedIn


class Worker:
    """One thread that runs the steps of all asynchronous streams; it starts when first needed.

    More threads would not help: the core runs one step at a time, and a single thread gives every
    stream its turn.
    """

    def __init__(self) -> None:
        """Start no thread yet."""
        self._opened_in = OpenedIn()
        self._closed = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="adapmoe")

    async def run(self, call: Callable[[], None]) -> None:
        """Run `call` in the thread. A cancelled task waits for `call` to end before it raises."""
        self._opened_in.check()
        try:
            future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        except RuntimeError as error:  # shut down
            if not self._closed and threading.current_thread() is not threading.main_thread():
                raise SystemExit from error  # Python is exiting; the core's steps end likewise
            raise ClosedError("the model was closed, or Python is exiting") from error
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            raise

    def close(self) -> None:
        """Let the thread end, without waiting for it."""
        self._closed = True
        self._executor.shutdown(wait=False)
