# SPDX-License-Identifier: Apache-2.0
"""Queue depth and size of a read for a pack: as given, as probed earlier, or the default."""

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
        request_bytes: of one read at most; 0: a whole tile.
        reader: as asked for.
        register_buffers: likewise.
        source: "given" by the caller, "probed" on this disk, or the "default".
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
        """Ready for JSON; `reader` is left to who knows which one is in use."""
        return {name: value for name, value in asdict(self).items() if name != "reader"}


def read_settings(
    pack: Path,
    reader: str = "auto",
    read_depth: int | None = None,
    request_bytes: int | None = None,
    register_buffers: bool = False,
) -> ReadSettings:
    """What to open `pack` with; quick, nothing is measured.

    Args:
        pack: its directory.
        reader: as for LLM; what was probed with another one does not count.
        read_depth, request_bytes: as the caller gave them, or None. One alone takes the default
            of the other.
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
    """`read_settings`, after a probe where nothing is given and nothing is known yet.

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
    """Keep what a probe found for later openings of `pack` on this disk.

    Returns:
        The setting that they will use; None where nothing was kept: without measurements, through
        the page cache, or where the cache directory cannot be written.
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
    """One record per pack and file system: a copy on another disk has its own.

    None where the pack cannot be read: opening it says what is wrong.
    """
    try:
        where = os.statvfs(pack)
        disk = where.f_fsid or pack.stat().st_dev
        return f"{manifest_sha256(pack)}-{disk:x}.disk.json"
    except (OSError, PackError) as error:
        _log.debug("nothing is remembered of the disk of %s: %s", pack, error)
        return None
