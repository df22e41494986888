# SPDX-License-Identifier: Apache-2.0
"""The experts that were resident when a model was closed, read again when it is opened next.

One small JSON file per pack in the user's cache directory. It is advice: whatever is wrong with it
costs a few reads and never an error.
"""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from adapmoe.errors import ClosedError, PackError
from adapmoe.machine.files import cache_directory, write_cached
from adapmoe.pack.manifest import manifest_sha256

if TYPE_CHECKING:
    from adapmoe import _core


_log = logging.getLogger("adapmoe")

_VERSION = 1
_MOST_BYTES = 4 << 20  # of a file that can be ours
_MOST_INDEX = 1 << 20


class WarmRestart:
    """Saves and restores the resident set of one pack."""

    def __init__(self, pack: Path) -> None:
        """For the pack in a directory; a pack without a manifest is left alone."""
        try:
            self._sha256 = manifest_sha256(pack)
        except PackError:
            self._sha256 = ""

    @classmethod
    def of(cls, pack: Path, session: "_core.Session") -> "WarmRestart":
        """For a pack that has just been opened: what was saved is being read."""
        warm = cls(pack)
        warm.restore(session)
        return warm

    @property
    def path(self) -> Path:
        """Where the resident set is kept."""
        return cache_directory() / f"{self._sha256}.json"

    def restore(self, session: "_core.Session") -> int:
        """Start reading the saved experts in the background, as far as memory is free.

        Returns:
            How many; reads that a step needs go before them.
        """
        experts = self._read() if self._sha256 else []
        return session.warm(experts) if experts else 0

    def save(self, session: "_core.Session") -> None:
        """Remember what is resident now, first what the next prompt will need first."""
        if not self._sha256:
            return
        try:
            experts = session.resident_set()
            if experts:
                self._write(sorted(experts))  # by layer: a pass begins at layer 0
        except (OSError, RuntimeError, ClosedError) as error:
            _log.debug("the resident set was not saved in %s: %s", self.path, error)

    def _read(self) -> list[tuple[int, int]]:
        try:
            if self.path.stat().st_size > _MOST_BYTES:
                return []
            found = json.loads(self.path.read_bytes())
            if found["version"] != _VERSION or found["manifest_sha256"] != self._sha256:
                return []
            pairs = [(layer, expert) for layer, expert in found["experts"]]
        except FileNotFoundError:
            return []
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, RecursionError) as error:
            _log.debug("%s is ignored: %s", self.path, error)
            return []
        good = all(type(n) is int and 0 <= n < _MOST_INDEX for pair in pairs for n in pair)
        return pairs if good else []

    def _write(self, experts: list[tuple[int, int]]) -> None:
        content = {"version": _VERSION, "manifest_sha256": self._sha256, "experts": experts}
        write_cached(self.path, content)
