# SPDX-License-Identifier: Apache-2.0
"""The record of engines beside their plans: written, read, checked."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from adapmoe.errors import EngineError
from adapmoe.machine.cuda import CudaDevice, DeviceModel
from adapmoe.machine.files import file_sha256
from adapmoe.pack.manifest import Manifest, manifest_sha256
from adapmoe.pack.sidecar import Count, Sha256, Sidecar, read_sidecar, write_sidecar

FOLDER = "engines"
FILE = "engines.json"
_FORMAT, _VERSION = "adapmoe-engines", 1
_TARGET = re.compile(r"\Asm_([0-9]{2,3})(\+?)\Z")

Key = tuple[int, int]  # (layer, expert)
Target = Annotated[str, Meta(pattern=_TARGET.pattern)]


class EngineRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One plan.

    Attributes:
        file: its name in the folder of engines.json.
        library: "tensorrt" or "tensorrt_rtx".
        targets: compute capabilities that it runs on: "sm_87", or "sm_80+" for that and later.
        flags: what else the builder was told.
        seconds: that building took, in its own process.
        peak_rss_bytes: of that process.
        device: that it was built on and for; UNSET if ahead of time, or if nobody recorded it.
    """

    layer: Count
    expert: Count
    file: str
    library: str
    version: str
    targets: Annotated[tuple[Target, ...], Meta(min_length=1)]
    flags: tuple[str, ...]
    onnx_sha256: Sha256
    sha256: Sha256
    bytes: Count
    seconds: float
    peak_rss_bytes: Count
    device: DeviceModel | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Raise ValueError for a file name that leads out of the folder, or to another expert."""
        if self.file != plan_file(self.layer, self.expert):
            raise ValueError(f"`file` is not {plan_file(self.layer, self.expert)}")

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


class _Engines(Sidecar, kw_only=True, forbid_unknown_fields=True):
    engines: list[EngineRecord]


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
    if not path.exists():
        there = sorted(other.parent.name for other in path.parent.parent.glob(f"*/{FILE}"))
        have = f"there are engines for {', '.join(there)}" if there else "there are no engines"
        raise EngineError(f"{path}: missing; {have}; {rebuild}")
    found = read_sidecar(
        path,
        pack,
        _Engines,
        (_FORMAT, _VERSION),
        subject="the engines are",
        remedy=rebuild,
        error=EngineError,
    )
    by_key = {record.key: record for record in found.engines}
    if len(by_key) < len(found.engines):
        raise EngineError(f"{path}: an expert is listed twice; {rebuild}")
    return by_key


def write_records(pack: Path, tag: str, records: Iterable[EngineRecord]) -> None:
    """Replace engines.json. Raises OSError."""
    found = _Engines(
        format=_FORMAT,
        format_version=_VERSION,
        manifest_sha256=manifest_sha256(pack),
        engines=sorted(records, key=lambda record: record.key),
    )
    write_sidecar(pack / FOLDER / tag / FILE, found)


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
        if record.device not in (UNSET, device.model):
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
    known = Manifest.read(pack).expert_ids
    if records.keys() != set(known):
        raise EngineError(
            f"{folder / FILE}: lists {len(records)} engines, the model has {len(known)} experts; "
            f"finish the build: {rebuild_command(pack, tag)}"
        )


def _rebuild(pack: Path, tag: str) -> str:
    return f"rebuild: {rebuild_command(pack, tag)}"
