# SPDX-License-Identifier: Apache-2.0
"""Queue depth and size of a read for a pack: as given, as probed earlier, or the default."""

import json
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adapmoe.errors import PackError
from adapmoe.machine.bandwidth import DEFAULT_READERS, DiskProbe, DiskSpeed, measure_disk
from adapmoe.machine.files import cache_directory, write_cached
from adapmoe.pack.manifest import manifest_sha256

_log = logging.getLogger("adapmoe")

_VERSION = 1
_MOST_BYTES = 64 << 10  # of a file that can be ours
_PAGE = 4096


@dataclass(frozen=True)
class ReadSettings:
    """How a session reads.

    Attributes:
        readers: reads at the same time.
        request_bytes: of one read at most; 0: a whole tile.
        reader: as asked for.
        register_buffers: likewise.
        source: "given" by the caller, "probed" on this disk, or the "default".
    """

    readers: int = DEFAULT_READERS
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
            "read_depth": self.readers,
            "request_bytes": self.request_bytes,
            "register_buffers": self.register_buffers,
        }

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; `reader` is left to who knows which one is in use."""
        return {name: value for name, value in asdict(self).items() if name != "reader"}


def read_settings(
    pack: Path,
    reader: str = "auto",
    readers: int | None = None,
    request_bytes: int | None = None,
    register_buffers: bool = False,
) -> ReadSettings:
    """What to open `pack` with; quick, nothing is measured.

    Args:
        pack: its directory.
        reader: as for LLM; what was probed with another one does not count.
        readers, request_bytes: as given by the caller, None where not. One alone takes the default
            of the other.
        register_buffers: as for LLM.
    """
    if readers is not None or request_bytes is not None:
        count = DEFAULT_READERS if readers is None else readers
        found = ReadSettings(count, request_bytes or 0, "given")
    else:
        found = _probed(pack, reader) or ReadSettings()
    return replace(found, reader=reader, register_buffers=register_buffers)


def settle(
    pack: Path,
    experts: dict[str, Any],
    reader: str = "auto",
    readers: int | None = None,
    request_bytes: int | None = None,
) -> ReadSettings:
    """`read_settings`, after a probe where nothing is given and nothing is known yet.

    Args:
        experts: `experts` of the pack's manifest.

    Raises:
        PackError, ReadError: as `measure_disk`.
    """
    found = read_settings(pack, reader, readers, request_bytes)
    if found.source != "default":
        return found
    remember(pack, measure_disk(pack, experts, reader=reader))
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
    try:
        write_cached(
            _path(pack),
            {
                "version": _VERSION,
                "reader": probe.reader,
                "readers": best.readers,
                "request_bytes": best.request_bytes,
                "speeds": [asdict(speed) for speed in probe.speeds],
            },
        )
    except (OSError, RuntimeError, PackError) as error:
        _log.debug("what the disk probe of %s found was not kept: %s", pack, error)
        return None
    return best


def _probed(pack: Path, reader: str) -> ReadSettings | None:
    try:
        path = _path(pack)
        if path.stat().st_size > _MOST_BYTES:
            return None
        found = json.loads(path.read_bytes())
        if found["version"] != _VERSION or reader not in ("auto", found["reader"]):
            return None
        readers, request_bytes = found["readers"], found["request_bytes"]
        good = (
            type(readers) is int
            and 1 <= readers <= 256
            and type(request_bytes) is int
            and 0 <= request_bytes <= 1 << 30
            and request_bytes % _PAGE == 0
        )
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.debug("what an earlier disk probe of %s found is ignored: %s", pack, error)
        return None
    except PackError:
        return None  # opening says what is wrong with the pack
    return ReadSettings(readers, request_bytes, "probed") if good else None


def _path(pack: Path) -> Path:
    """One file per pack and file system: a copy on another disk has its own."""
    where = os.statvfs(pack)
    disk = where.f_fsid or pack.stat().st_dev
    return cache_directory() / f"{manifest_sha256(pack)}-{disk:x}.disk.json"
