# SPDX-License-Identifier: Apache-2.0
"""What of a tag is kept from earlier builds, what a worker shall do, and what is recorded."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapmoe.engines.builder import EngineBuilder
from adapmoe.engines.network import FLAGS
from adapmoe.engines.reading import check_plan
from adapmoe.engines.records import (
    FOLDER,
    EngineRecord,
    Key,
    load_records,
    make_tag,
    plan_file,
    write_records,
)
from adapmoe.errors import EngineError
from adapmoe.files import publish, temporary_path
from adapmoe.onnx_sidecar import OnnxModel

Progress = Callable[[int, int], None]  # (engines in place so far, engines in all)
_WORKSPACE = "workspace="  # a flag
_WORKSPACE_SHARE = 4  # the part of a build's memory that kernels on the device may work in


class TagBuild:
    """The engines of one tag while they are built. REQUIRES: the folder is locked."""

    def __init__(
        self,
        pack: Path,
        builder: EngineBuilder,
        targets: tuple[str, ...],
        models: Path,
        limit: int,
    ) -> None:
        """`limit`: bytes of memory that a build may take."""
        self._pack = pack
        self._builder = builder
        self._targets = targets
        self._models = models
        self._device = builder.device
        self._workspace_bytes = limit // _WORKSPACE_SHARE
        self.tag = make_tag(builder.name, targets)
        self.records: dict[Key, EngineRecord] = {}

    def keep(self, models: Sequence[OnnxModel], progress: Progress) -> None:
        """Keep the recorded engines that would come out of building `models` again."""
        before: dict[Key, EngineRecord] = {}
        with suppress(EngineError):  # nothing that could be kept
            before = load_records(self._pack, self.tag)
        for model in models:
            record = before.get((model.layer, model.expert))
            if record is None or not self._fits(record, model):
                continue
            with suppress(EngineError):  # it is built again
                check_plan(self._pack, self.tag, record)
                self.records[record.key] = record
            progress(len(self.records), len(models))

    def job(self, model: OnnxModel) -> dict[str, Any]:
        """For a worker."""
        plan = self._folder / plan_file(model.layer, model.expert)
        return {
            "kind": "build",
            "builder": self._builder.name,
            "version": self._builder.version,
            "targets": self._targets,
            "onnx": str(self._models / model.file),
            "onnx_sha256": model.sha256,
            "plan": str(temporary_path(plan)),
            "timing_cache": str(self._folder / "timing.cache"),
            "workspace_bytes": self._workspace_bytes,
        }

    def finish(self, model: OnnxModel, result: dict[str, Any]) -> None:
        """Put a plan in its place and record it."""
        plan = self._folder / plan_file(model.layer, model.expert)
        publish(temporary_path(plan), plan)
        record = EngineRecord(
            layer=model.layer,
            expert=model.expert,
            file=plan.name,
            library=self._builder.name,
            version=self._builder.version,
            targets=self._targets,
            flags=FLAGS + ((f"{_WORKSPACE}{self._workspace_bytes}",) if self._device else ()),
            onnx_sha256=model.sha256,
            device=self._device,
            **result,
        )
        self.records[record.key] = record
        write_records(self._pack, self.tag, self.records.values())

    def _fits(self, record: EngineRecord, model: OnnxModel) -> bool:
        # Other workspace is no reason to build again: --max-rss may be raised on the way.
        flags = tuple(flag for flag in record.flags if not flag.startswith(_WORKSPACE))
        builder = self._builder
        origin = (record.library, record.version, record.targets, record.device)
        if origin != (builder.name, builder.version, self._targets, self._device):
            return False
        return (flags, record.onnx_sha256) == (FLAGS, model.sha256)

    @property
    def _folder(self) -> Path:
        return self._pack / FOLDER / self.tag
