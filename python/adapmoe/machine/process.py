# SPDX-License-Identifier: Apache-2.0
"""What holds threads, locks and memory: refused in a fork, and never copied."""

import os
from typing import NoReturn, SupportsIndex

from adapmoe.errors import ForkError


class OpenedIn:
    """Remembers the process in which something was opened.

    A fork has a copy of its locks, perhaps locked, but none of its threads. Check before taking a
    lock or waiting for a thread.
    """

    def __init__(self) -> None:
        """Remember this process."""
        self._process = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this is a fork of that process."""
        return os.getpid() != self._process

    def check(self) -> None:
        """Raise ForkError in a fork of that process. The core says the same of what it holds."""
        if self.forked:
            raise ForkError(
                f"this LLM was opened in process {self._process}, and a fork of that process "
                "cannot use it: open the pack in the child process, or start child processes with "
                "the spawn method"
            )


class NotCopied:
    """Base of what `copy` and `pickle` refuse."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Raise TypeError: there is one model, and a copy would claim its memory too."""
        raise TypeError(
            f"{type(self).__module__}.{type(self).__qualname__} cannot be copied or pickled: it "
            "belongs to an open model in this process. Threads can share it; another process opens "
            "the pack itself"
        )
