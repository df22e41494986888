# SPDX-License-Identifier: Apache-2.0
"""Keeps the list of resident experts when a model is closed, to read them when it opens again.

The list is a small JSON file per pack in the user's cache directory. It is only advice: a wrong one
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
        """For the pack in this directory; does nothing for one without a manifest."""
        try:
            self._sha256 = manifest_sha256(pack)
        except PackError:
            self._sha256 = ""

    @classmethod
    def of(cls, pack: Path, session: "_core.Session") -> "WarmRestart":
        """For a pack that has just been opened; starts reading what was saved."""
        warm = cls(pack)
        warm.restore(session)
        return warm

    def restore(self, session: "_core.Session") -> int:
        """Start reading the saved experts in the background, as far as memory is free.

        Returns:
            How many experts. Reads that a step needs go first.
        """
        if not self._sha256:
            return 0
        found = read_cached(self._name, _ResidentSet)
        if found is None or found.manifest_sha256 != self._sha256:
            return 0
        return session.warm(found.experts) if found.experts else 0

    def save(self, session: "_core.Session") -> None:
        """Save what is resident now, in the order in which the next prompt will need it."""
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
