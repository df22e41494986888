# SPDX-License-Identifier: Apache-2.0
"""The record of engines beside their plans: written, read, checked."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapmoe.errors import EngineError
from adapmoe.machine.cuda import CudaDevice, DeviceModel
from adapmoe.machine.files import file_sha256, replace_file
from adapmoe.pack.manifest import check_header, manifest_sha256, read_manifest

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


@dataclass(frozen=True)
class EngineRecords:
    """The engines of one tag: recorded, complete, and right for this library and device."""

    pack: Path
    tag: str
    records: Mapping[Key, EngineRecord]

    def read_plan(self, layer: int, expert: int) -> bytes:
        """The bytes of a plan, which are those that were built.

        Raises:
            EngineError: it is not listed, cannot be read, or its bytes have another SHA-256.
        """
        record = self.records.get((layer, expert))
        if record is None:
            raise EngineError(
                f"{self._folder / FILE}: lists no engine of expert {expert} in layer {layer}; "
                f"{_rebuild(self.pack, self.tag)}"
            )
        path = self._folder / record.file
        with _readable(path, self.pack, self.tag):
            data = path.read_bytes()
        _check_hash(self.pack, self.tag, record, hashlib.sha256(data).hexdigest())
        return data

    @property
    def _folder(self) -> Path:
        return self.pack / FOLDER / self.tag


def read_engine_records(
    pack: Path,
    tag: str,
    *,
    library: str,
    version: str,
    device: CudaDevice,
    check_plans: bool = True,
) -> EngineRecords:
    """The engines that may run here.

    Args:
        pack: a pack that was validated.
        tag: the folder below `engines/`.
        library: "tensorrt" or "tensorrt_rtx", the one that is loaded.
        version: its version; plans of any other are refused.
        device: that they shall run on.
        check_plans: read every plan and compare its SHA-256 now. `read_plan` does so in any case.

    Raises:
        EngineError: a plan is missing, not listed, damaged, or built by or for something else. The
            message says what was built for what, and how to rebuild.
    """
    records = load_records(pack, tag)
    folder = pack / FOLDER / tag
    for record in records.values():
        where = f"{folder / record.file}: built by {record.built_by}"
        if (record.library, record.version) != (library, version):
            raise EngineError(
                f"{where}, but here is {library} {version}, and a plan is only read by the version "
                f"that built it; {_rebuild(pack, tag)}"
            )
        if not record.runs_on(device.target):
            raise EngineError(
                f"{where}, but this device is {device.target}; "
                f"build for it: adapmoe build-engines {pack}"
            )
        if record.device not in (None, device.model):
            raise EngineError(
                f"{where} on {record.device}, but this device is {device.model}; "
                f"build for it: {rebuild_command(pack, tag)}"
            )
    _check_complete(pack, tag, records)
    if check_plans:
        for record in records.values():
            check_plan(pack, tag, record)
    return EngineRecords(pack, tag, records)


def check_plan(pack: Path, tag: str, record: EngineRecord) -> None:
    """Compare a plan with its record. Raises EngineError."""
    path = pack / FOLDER / tag / record.file
    with _readable(path, pack, tag):
        found = file_sha256(path)
    _check_hash(pack, tag, record, found)


@contextmanager
def _readable(path: Path, pack: Path, tag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Building again mends what is missing, not what cannot be opened.
        advice = f"; {_rebuild(pack, tag)}" if isinstance(error, FileNotFoundError) else ""
        raise EngineError(f"{path}: cannot be read: {error.strerror}{advice}") from error


def _check_hash(pack: Path, tag: str, record: EngineRecord, found: str) -> None:
    if found != record.sha256:
        raise EngineError(
            f"{pack / FOLDER / tag / record.file}: SHA-256 is {found}, but {record.built_by} wrote "
            f"a plan of {record.bytes} bytes with {record.sha256}: it is damaged and not used; "
            f"{_rebuild(pack, tag)}"
        )


def _check_complete(pack: Path, tag: str, records: dict[Key, EngineRecord]) -> None:
    """Every expert has a record, and every plan in the folder belongs to one."""
    folder = pack / FOLDER / tag
    listed = {record.file for record in records.values()}
    unlisted = sorted(path for path in folder.glob("*.plan") if path.name not in listed)
    if unlisted:
        raise EngineError(
            f"{unlisted[0]}: is not listed in {FILE}, so nobody knows what it is; "
            f"remove it, or finish an interrupted build: {rebuild_command(pack, tag)}"
        )
    config = read_manifest(pack)["config"]
    layers, experts = config["num_hidden_layers"], config["num_local_experts"]
    known = {(layer, expert) for layer in range(layers) for expert in range(experts)}
    if records.keys() != known:
        raise EngineError(
            f"{folder / FILE}: lists {len(records)} engines, the model has {len(known)} experts; "
            f"finish the build: {rebuild_command(pack, tag)}"
        )


def _rebuild(pack: Path, tag: str) -> str:
    return f"rebuild: {rebuild_command(pack, tag)}"
