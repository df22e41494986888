# SPDX-License-Identifier: Apache-2.0
"""Decides which plan may be deserialised, and is the only way to its bytes."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapmoe.engines.cuda_device import CudaDevice
from adapmoe.engines.records import (
    FILE,
    FOLDER,
    EngineRecord,
    Key,
    load_records,
    rebuild_command,
)
from adapmoe.errors import EngineError
from adapmoe.files import file_sha256
from adapmoe.geometry import read_manifest


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
