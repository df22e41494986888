# SPDX-License-Identifier: Apache-2.0
"""engines.json: what was built, by what, for what, from what."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapmoe.engines.cuda_device import DeviceModel
from adapmoe.errors import EngineError
from adapmoe.geometry import manifest_sha256
from adapmoe.sidecar_files import check_header, replace_file

FOLDER = "engines"
FILE = "engines.json"
_FORMAT, _VERSION = "adapmoe-engines", 1
_HEX = re.compile(r"[0-9a-f]{64}")
_TARGET = re.compile(r"sm_([0-9]{2,3})(\+?)")

Key = tuple[int, int]  # (layer, expert)


@dataclass(frozen=True)
class EngineRecord:
    """One plan.

    Attributes:
        file: its name in the folder of engines.json.
        library: "tensorrt" or "tensorrt_rtx".
        targets: compute capabilities that it runs on: "sm_87", or "sm_80+" for that and later.
        flags: what else the builder was told.
        seconds: that building took, in its own process.
        peak_rss_bytes: of that process.
        device: that it was built on and for; None if ahead of time, or if nobody recorded it.
    """

    layer: int
    expert: int
    file: str
    library: str
    version: str
    targets: tuple[str, ...]
    flags: tuple[str, ...]
    onnx_sha256: str
    sha256: str
    bytes: int
    seconds: float
    peak_rss_bytes: int
    device: DeviceModel | None = None

    @property
    def key(self) -> Key:
        """(layer, expert)."""
        return self.layer, self.expert

    @property
    def built_by(self) -> str:
        """For messages."""
        return f"{self.library} {self.version} for {', '.join(self.targets)}"

    def runs_on(self, compute_capability: str) -> bool:
        """Whether one of the targets covers a device such as "sm_87"."""
        device = int(compute_capability.removeprefix("sm_"))
        for target in self.targets:
            match = _TARGET.fullmatch(target)
            assert match, target
            if device == int(match[1]) or (match[2] and device > int(match[1])):
                return True
        return False


def plan_file(layer: int, expert: int) -> str:
    """The name of an expert's plan."""
    return f"layer{layer}-expert{expert}.plan"


def make_tag(library: str, targets: Iterable[str]) -> str:
    """The name of the folder for plans of a library and its targets, such as "tensorrt-sm_87"."""
    return "-".join([library, *targets])


def rebuild_command(pack: Path, tag: str) -> str:
    """The command that builds the engines of a tag, for messages."""
    library, *targets = tag.split("-")
    options = "".join(f" --target {target}" for target in targets if library == "tensorrt_rtx")
    return f"adapmoe build-engines {pack} --builder {library}{options}"


def load_records(pack: Path, tag: str) -> dict[Key, EngineRecord]:
    """What engines.json lists, by (layer, expert); the plans themselves are not looked at.

    Raises:
        EngineError: there is none, or it is damaged, of another pack or version.
    """
    path = pack / FOLDER / tag / FILE
    rebuild = f"build the engines: {rebuild_command(pack, tag)}"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        there = sorted(other.parent.name for other in path.parent.parent.glob(f"*/{FILE}"))
        have = f"there are engines for {', '.join(there)}" if there else "there are no engines"
        raise EngineError(f"{path}: missing; {have}; {rebuild}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"{path}: cannot be read as JSON: {error}; {rebuild}") from error
    kind = (_FORMAT, _VERSION)
    subject = "the engines are"
    check_header(found, path, pack, kind, subject=subject, remedy=rebuild, error=EngineError)
    try:
        records = [_record(entry) for entry in found["engines"]]
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(
            f"{path}: an engine is not listed as it should be: {error}; {rebuild}"
        ) from error
    by_key = {record.key: record for record in records}
    if len(by_key) < len(records):
        raise EngineError(f"{path}: an expert is listed twice; {rebuild}")
    return by_key


def write_records(pack: Path, tag: str, records: Iterable[EngineRecord]) -> None:
    """Replace engines.json. Raises OSError."""
    found = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "manifest_sha256": manifest_sha256(pack),
        "engines": [_entry(record) for record in sorted(records, key=lambda record: record.key)],
    }
    data = (json.dumps(found, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    replace_file(pack / FOLDER / tag / FILE, data)


def _entry(record: EngineRecord) -> dict[str, Any]:
    entry = asdict(record)
    if record.device is None:
        del entry["device"]
    return entry


def _device(entry: dict[str, Any]) -> DeviceModel:
    device = DeviceModel(**entry)
    if not isinstance(device.name, str):
        raise TypeError(f"device {device.name!r}")
    if type(device.multiprocessors) is not int or device.multiprocessors < 1:
        raise ValueError(f"{device.multiprocessors!r} multiprocessors")
    return device


def _record(entry: dict[str, Any]) -> EngineRecord:
    lists = {name: tuple(entry[name]) for name in ("targets", "flags")}
    device = {"device": _device(entry["device"])} if "device" in entry else {}
    record = EngineRecord(**(entry | lists | device))
    for count in (record.layer, record.expert, record.bytes, record.peak_rss_bytes):
        if type(count) is not int or count < 0:
            raise ValueError(f"{count!r} is no count")
    if type(record.seconds) not in (int, float):
        raise TypeError(f"seconds {record.seconds!r}")
    # A list may not lead out of its folder.
    if record.file != plan_file(record.layer, record.expert):
        raise ValueError(f"file {record.file!r}")
    if not all(_HEX.fullmatch(digest) for digest in (record.sha256, record.onnx_sha256)):
        raise ValueError(f"a SHA-256 of {record.file}")
    texts = (record.library, record.version, *record.targets, *record.flags)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"the builder of {record.file}")
    if not record.targets or not all(_TARGET.fullmatch(target) for target in record.targets):
        raise ValueError(f"targets {record.targets}")
    return record
