# SPDX-License-Identifier: Apache-2.0
"""The experts that were resident when a model was closed, read again when it is opened next.

One small JSON file per pack in the user's cache directory. It is advice: whatever is wrong with it
costs a few reads and never an error.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from adapmoe.errors import ClosedError, PackError
from adapmoe.machine.files import read_cached, write_cached
from adapmoe.pack.manifest import manifest_sha256

if TYPE_CHECKING:
    from adapmoe import _core


_log = logging.getLogger("adapmoe")

_Index = Annotated[int, Meta(ge=0, lt=1 << 20)]


class _ResidentSet(Struct):
    version: Literal[1]
    manifest_sha256: str
    experts: list[tuple[_Index, _Index]]  # (layer, expert)


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

    def restore(self, session: "_core.Session") -> int:
        """Start reading the saved experts in the background, as far as memory is free.

        Returns:
            How many; reads that a step needs go before them.
        """
        if not self._sha256:
            return 0
        found = read_cached(self._name, _ResidentSet)
        if found is None or found.manifest_sha256 != self._sha256:
            return 0
        return session.warm(found.experts) if found.experts else 0

    def save(self, session: "_core.Session") -> None:
        """Remember what is resident now, first what the next prompt will need first."""
        if not self._sha256:
            return
        try:
            experts = session.resident_set()
        except (RuntimeError, ClosedError) as error:
            _log.debug("the resident set is not saved: %s", error)
            return
        if experts:  # by layer: a pass begins at layer 0
            write_cached(self._name, _ResidentSet(1, self._sha256, sorted(experts)))

    @property
    def _name(self) -> str:
        return f"{self._sha256}.json"
