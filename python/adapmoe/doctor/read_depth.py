# SPDX-License-Identifier: Apache-2.0
"""How many reads at the same time this disk likes, tried on a pack's own experts and remembered."""

from pathlib import Path

from adapmoe.doctor.finding import Finding
from adapmoe.errors import AdapmoeError
from adapmoe.geometry import read_manifest
from adapmoe.reading.disk_probe import DiskProbe, measure_disk
from adapmoe.reading.settings import remember

_TOPIC = "queue depth"
_WHY = "too few reads leave a disk idle; of too many the one that is waited for comes late"


def try_depths(pack: Path) -> DiskProbe | str:
    """Read bursts from a pack that can be opened; why not, where they cannot be read."""
    try:
        return measure_disk(pack, read_manifest(pack)["experts"])
    except AdapmoeError as error:
        return str(error)


def examine_depths(pack: Path, trial: DiskProbe | str) -> Finding:
    """What `trial` gave; it is remembered, so that opening this pack uses it."""
    if isinstance(trial, str):
        return Finding(_TOPIC, "warning", trial, _WHY, "check the disk")
    best = trial.best
    if best is None:
        seen = "the disk is too slow to compare depths in a second; 4 reads at a time are used"
        return Finding(_TOPIC, "note", seen, _WHY, "keep packs on NVMe")
    default = trial.speeds[0]
    size = f" of {best.request_bytes >> 10} KiB" if best.request_bytes else ""
    seen = f"{best.readers} reads{size} at a time by {trial.reader}: {_speed(best.bytes_per_s)}"
    if best is not default:
        seen += f", where the default of {default.readers} has {_speed(default.bytes_per_s)}"
    if not best.direct:
        return Finding(_TOPIC, "note", f"{seen}; through the page cache", _WHY, "see o_direct")
    if remember(pack, trial) is None:
        remedy = "make ~/.cache/adapmoe, or $XDG_CACHE_HOME/adapmoe, a folder that can be written"
        return Finding(_TOPIC, "note", f"{seen}; it cannot be remembered", _WHY, remedy)
    return Finding(_TOPIC, "ok", f"{seen}; remembered for this pack", _WHY)


def _speed(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.2f} GB/s"
