# SPDX-License-Identifier: Apache-2.0
"""How to read a pack: how many reads at a time, and how large, as given, probed or by default."""

import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from adapmoe.errors import PackError
from adapmoe.machine.bandwidth import DEFAULT_READ_DEPTH, DiskProbe, DiskSpeed, measure_disk
from adapmoe.machine.files import read_cached, write_cached
from adapmoe.pack.manifest import Experts, manifest_sha256

_log = logging.getLogger("adapmoe")


class _Probed(Struct):
    version: Literal[2]
    reader: str
    read_depth: Annotated[int, Meta(ge=1, le=256)]
    request_bytes: Annotated[int, Meta(ge=0, le=1 << 30, multiple_of=4096)]
    speeds: list[DiskSpeed] = []


@dataclass(frozen=True)
class ReadSettings:
    """How a session reads.

    Attributes:
        read_depth: reads at the same time.
        request_bytes: largest single read; 0: a whole tile.
        source: "given" by the caller, "probed" on this disk, or "default".
        reader, register_buffers: as given.
    """

    read_depth: int = DEFAULT_READ_DEPTH
    request_bytes: int = 0
    source: str = "default"
    reader: str = "auto"
    register_buffers: bool = False

    def options(self) -> dict[str, Any]:
        """As arguments of LLM."""
        return {name: value for name, value in asdict(self).items() if name != "source"}

    def core_settings(self) -> dict[str, Any]:
        """As settings of a core session."""
        return {
            "reader": self.reader,
            "read_depth": self.read_depth,
            "request_bytes": self.request_bytes,
            "register_buffers": self.register_buffers,
        }

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, without `reader`: it may be "auto", and only the session knows more."""
        return {name: value for name, value in asdict(self).items() if name != "reader"}


def read_settings(
    pack: Path,
    reader: str = "auto",
    read_depth: int | None = None,
    request_bytes: int | None = None,
    register_buffers: bool = False,
) -> ReadSettings:
    """How to read `pack`. Measures nothing.

    Args:
        pack: its directory.
        reader: as for LLM; what another reader was probed with does not count.
        read_depth, request_bytes: as the caller gave them, or None. If only one is given, the other
            has its default.
        register_buffers: as for LLM.
    """
    if read_depth is not None or request_bytes is not None:
        count = DEFAULT_READ_DEPTH if read_depth is None else read_depth
        found = ReadSettings(count, request_bytes or 0, "given")
    else:
        found = _probed(pack, reader) or ReadSettings()
    return replace(found, reader=reader, register_buffers=register_buffers)


def settle(
    pack: Path,
    experts: Experts,
    reader: str = "auto",
    read_depth: int | None = None,
    request_bytes: int | None = None,
) -> ReadSettings:
    """`read_settings`, but probe the disk first if nothing is given and nothing known.

    Args:
        experts: `experts` of the pack's manifest.

    Raises:
        PackError, ReadError: as `measure_disk`.
    """
    found = read_settings(pack, reader, read_depth, request_bytes)
    if found.source != "default":
        return found
    remember(pack, measure_disk(experts.all_tiles(pack), reader=reader))
    return read_settings(pack, reader)


def remember(pack: Path, probe: DiskProbe) -> DiskSpeed | None:
    """Keep what a probe found for the next time `pack` is opened on this disk.

    Returns:
        The setting that was kept. None if none was: there are no measurements, they went through
        the page cache, or the cache directory cannot be written.
    """
    best = probe.best
    if best is None or not best.direct:
        return None
    name = _name(pack)
    if name is None:
        return None
    record = _Probed(2, probe.reader, best.read_depth, best.request_bytes, list(probe.speeds))
    return best if write_cached(name, record) else None


def _probed(pack: Path, reader: str) -> ReadSettings | None:
    name = _name(pack)
    found = None if name is None else read_cached(name, _Probed)
    if found is None or reader not in ("auto", found.reader):
        return None
    return ReadSettings(found.read_depth, found.request_bytes, "probed")


def _name(pack: Path) -> str | None:
    """The record's file: one per pack and file system, so a copy on another disk has its own.

    None if the pack cannot be read; opening it will say why.
    """
    try:
        where = os.statvfs(pack)
        disk = where.f_fsid or pack.stat().st_dev
        return f"{manifest_sha256(pack)}-{disk:x}.disk.json"
    except (OSError, PackError) as error:
        _log.debug("nothing is kept about the disk of %s: %s", pack, error)
        return None
