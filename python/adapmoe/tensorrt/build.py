# SPDX-License-Identifier: Apache-2.0
"""Builds the engine of every expert, several at a time, going on where an earlier run stopped."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import UNSET

from adapmoe import _core
from adapmoe.errors import EngineError, ReadError
from adapmoe.machine.files import locked_folder, publish, temporary_path
from adapmoe.pack.manifest import Manifest
from adapmoe.pack.onnx_models import FOLDER as ONNX_FOLDER
from adapmoe.pack.onnx_models import OnnxModel, read_onnx_models
from adapmoe.tensorrt.builders import FLAGS, EngineBuilder, open_builder
from adapmoe.tensorrt.records import (
    FOLDER,
    EngineRecord,
    Key,
    check_plan,
    load_records,
    make_tag,
    plan_file,
    write_records,
)
from adapmoe.tensorrt.worker_pool import WorkerPool

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
        self._device = UNSET if builder.device is None else builder.device
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
        workspace = (f"{_WORKSPACE}{self._workspace_bytes}",) if self._builder.device else ()
        record = EngineRecord(
            layer=model.layer,
            expert=model.expert,
            file=plan.name,
            library=self._builder.name,
            version=self._builder.version,
            targets=self._targets,
            flags=FLAGS + workspace,
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


_COPIES = 6  # of an ONNX model that a builder may hold at once
_NAMED_FAILURES = 3


@dataclass(frozen=True)
class BuildSummary:
    """What is in the folder of a tag now."""

    tag: str
    folder: str
    library: str
    version: str
    engines: int
    kept: int  # of them, those that an earlier run built and that are intact
    jobs: int
    bytes: int  # of all plans
    seconds: float  # of all builds, added up
    peak_rss_bytes: int  # the largest of all builds


def build_engines(
    pack: Path,
    *,
    builder: str = "auto",
    targets: Sequence[str] = (),
    onnx_folder: Path | None = None,
    jobs: int = 0,
    max_rss_bytes: int = 0,
    progress: Progress | None = None,
) -> BuildSummary:
    """Build the engine of every expert of `pack` from its ONNX models.

    Args:
        builder: "tensorrt", "tensorrt_rtx", or "auto": the first that can build here.
        targets: compute capabilities such as "sm_86"; (): the builder's default.
        onnx_folder: None: `pack`/onnx.
        jobs: builds at a time; 0: one per core as far as memory goes, one where builds are timed.
        max_rss_bytes: resident memory of a build, at most; 0: chosen from the size of the models.
            On a device, kernels may work in a quarter of that.

    Raises:
        PackError: the pack.
        EngineError: the models, the targets, a dtype or `jobs` that the builder does not take, or
            experts that could not be built; the others are recorded, and the next run keeps them.
        BackendUnavailableError: no such builder here.
    """
    quantization = Manifest.read(pack).quantization
    chosen = open_builder(builder)
    _check_request(pack, chosen, quantization.experts.dtype, jobs)
    folder = onnx_folder or pack / ONNX_FOLDER
    models = sorted(read_onnx_models(pack, folder).values(), key=lambda m: (m.layer, m.expert))
    if not models:
        raise EngineError(f"{folder}: lists no models; make them: adapmoe export {pack} --onnx")
    limit = max_rss_bytes or chosen.working_bytes + _COPIES * max(m.bytes for m in models)
    build = TagBuild(pack, chosen, chosen.choose_targets(targets), folder, limit)
    jobs = jobs or (_fitting_jobs(limit) if chosen.parallel else 1)
    progress = progress or (lambda done, total: None)
    with _locked(pack, build.tag):
        build.keep(models, progress)
        kept = len(build.records)
        write_records(pack, build.tag, build.records.values())
        _build_missing(build, models, WorkerPool(limit), jobs, progress)
    records = build.records.values()
    return BuildSummary(
        tag=build.tag,
        folder=str(pack / FOLDER / build.tag),
        library=chosen.name,
        version=chosen.version,
        engines=len(records),
        kept=kept,
        jobs=jobs,
        bytes=sum(record.bytes for record in records),
        seconds=round(sum(record.seconds for record in records), 3),
        peak_rss_bytes=max(record.peak_rss_bytes for record in records),
    )


def _check_request(pack: Path, builder: EngineBuilder, dtype: str, jobs: int) -> None:
    if dtype not in builder.dtypes:
        raise EngineError(
            f"{pack}: its experts are {dtype}, and {builder.name} does not dequantise groups of "
            f"{dtype}, only of int4; export the checkpoint again with --experts int4, or run this "
            'pack with arithmetic="w4a8" on the GPU, which needs no engines'
        )
    if jobs > 1 and not builder.parallel:
        raise EngineError(
            f"--jobs {jobs}: {builder.name} chooses kernels by their times, so a build must have "
            "the device for itself; leave --jobs out"
        )


def _build_missing(
    build: TagBuild, models: list[OnnxModel], workers: WorkerPool, jobs: int, progress: Progress
) -> None:
    missing = [model for model in models if (model.layer, model.expert) not in build.records]
    failures: list[str] = []
    progress(len(build.records), len(models))
    with ThreadPoolExecutor(jobs) as pool:
        futures: dict[Future[dict[str, Any]], OnnxModel] = {
            pool.submit(workers.run, build.job(model)): model for model in missing
        }
        try:
            for future in as_completed(futures):
                model = futures[future]
                try:
                    build.finish(model, future.result())
                except EngineError as error:
                    failures.append(f"expert {model.expert} in layer {model.layer}: {error}")
                progress(len(build.records), len(models))
        finally:
            workers.stop()
            pool.shutdown(cancel_futures=True)
    if failures:
        shown = "; ".join(failures[:_NAMED_FAILURES])
        raise EngineError(
            f"{len(failures)} of {len(models)} engines could not be built: {shown}; the others are "
            "recorded, and the same command tries these again"
        )


def _fitting_jobs(limit: int) -> int:
    """One per core that may be used, as far as memory goes."""
    return max(1, min(_core.usable_cpus(), _core.available_memory() // limit))


@contextmanager
def _locked(pack: Path, tag: str) -> Iterator[None]:
    folder = pack / FOLDER / tag
    try:
        with locked_folder(folder):
            yield
    except ReadError:
        raise
    except BlockingIOError as error:
        raise EngineError(f"{folder}: another build is writing there; wait for it") from error
    except OSError as error:
        raise EngineError(
            f"{error.filename or folder}: cannot write: {error.strerror}; what is finished is "
            "recorded, and the same command goes on"
        ) from error
