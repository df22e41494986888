# SPDX-License-Identifier: Apache-2.0
"""Streams a checkpoint into a pack, a few tiles in memory at a time."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from adapmoe.machine.files import replace_file
from adapmoe_export.architecture import Json
from adapmoe_export.destination import Staging, staged_directory
from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.journal import Journal, fingerprint
from adapmoe_export.manifest import (
    WrittenFile,
    check_limits,
    join_checksums,
    make_manifest,
    provenance,
    serialize,
)
from adapmoe_export.matrix_packer import Job, MatrixPacker, Piece
from adapmoe_export.plan import ExportOptions, PackPlan
from adapmoe_export.safetensors_file import TensorEntry
from adapmoe_export.safetensors_writer import SafetensorsWriter
from adapmoe_export.source import open_checkpoint
from adapmoe_export.tokenizer_files import check_tokenizer_files
from adapmoe_export.workers import choose_workers, in_order

_ALLOWANCE = 8 << 20  # for the journal and for what file systems add, in the free-space check

Progress = Callable[[int, int], None]  # (bytes in place so far, bytes in all)


def export_pack(
    source: Path,
    out: Path,
    *,
    experts: str = "int4",
    dense: str = "int8",
    group_size: int = 32,
    tile_width: int | None = None,
    overwrite: bool = False,
    threads: int = 0,
    fresh: bool = False,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> Json:
    """Write the pack of the checkpoint `source` to `out`; return its manifest.

    The options are those of ExportOptions. The checkpoint is checked in full (names, shapes,
    dtypes) before anything is written, and `out` appears only when it is complete. An
    interrupted export resumes where it stopped if checkpoint and options are the same. `notice` is
    called with sentences for the user. Raises CheckpointError and ExportError.
    """
    options = ExportOptions(
        experts=experts,
        dense=dense,
        group_size=group_size,
        tile_width=tile_width,
        overwrite=overwrite,
        fresh=fresh,
        threads=threads,
    )
    return write_pack(*open_checkpoint(source, options), out, progress=progress, notice=notice)


def write_pack(
    checkpoint: HfCheckpoint,
    plan: PackPlan,
    out: Path,
    *,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> Json:
    """Write the pack that `plan` lays out to `out`; return its manifest. See export_pack."""
    options = plan.options
    copied = check_tokenizer_files(checkpoint.path, plan.config.vocab_size)
    if notice is not None and not any(path.name == "tokenizer.json" for path in copied):
        notice(f"{checkpoint.path}: no tokenizer, so the pack will take token ids only, no text")
    small = sum(path.stat().st_size for path in copied) + check_limits(plan)
    needed = plan.total_bytes() + small + _ALLOWANCE
    origin = provenance(checkpoint.config_bytes, checkpoint.dtypes)
    with (
        staged_directory(out, options.overwrite, needed, options.fresh) as staging,
        Journal(staging.journal, fingerprint(plan, checkpoint)) as journal,
    ):
        writer = _PackWriter(checkpoint, plan, staging, journal, progress, notice)
        dense_crc32c = writer.write_dense()
        crc32c = writer.write_experts()
        for path in copied:
            writer.write_file(path.name, path.read_bytes())
        errors = writer.report.summary()
        manifest = make_manifest(plan, origin, writer.files, crc32c, dense_crc32c, errors)
        writer.write_file("manifest.json", serialize(manifest))
    return manifest


@dataclass(frozen=True)
class _Record:
    """A tensor of the pack."""

    entry: TensorEntry
    jobs: Callable[[], Iterator[Job]]  # their pieces are the tensor's bytes, in order


class _ErrorReport:
    """Sums squared errors and squared weights per kind."""

    def __init__(self) -> None:
        """Start with no matrices."""
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, kind: str, squared_error: float, squared_weights: float) -> None:
        """Count one packed matrix (or a part of one)."""
        sums = self._sums[kind]
        sums[0] += squared_error
        sums[1] += squared_weights

    def summary(self) -> Json:
        """{kind: {"relative_rmse": sqrt(sum err^2 / sum w^2)}}, six significant digits."""
        return {
            kind: {"relative_rmse": float(f"{math.sqrt(error / weights if weights else 0.0):.6g}")}
            for kind, (error, weights) in sorted(self._sums.items())
        }


class _PackWriter:
    """Writes the files of one pack into the staging directory."""

    def __init__(
        self,
        checkpoint: HfCheckpoint,
        plan: PackPlan,
        staging: Staging,
        journal: Journal,
        progress: Progress | None,
        notice: Callable[[str], None] | None,
    ) -> None:
        self.files: dict[str, WrittenFile] = {}
        self.report = _ErrorReport()
        self._plan = plan
        self._directory = staging.pack
        self._journal = journal
        self._workers, threads_each = choose_workers(checkpoint, plan)
        self._packer = MatrixPacker(checkpoint, plan, threads_each)
        self._progress = progress
        self._notice = notice
        self._total = plan.total_bytes()
        self._finished = 0  # bytes of the files that are complete

    def write_dense(self) -> dict[str, str]:
        """dense.safetensors. Returns the checksum of each tensor."""
        writer = self._write_tensors(
            "dense.safetensors",
            [
                _Record(tensor.entry, partial(self._packer.dense_jobs, tensor))
                for tensor in self._plan.dense
            ],
        )
        return {entry.tensor: f"{join_checksums(entry.pieces):08x}" for entry in writer.done}

    def write_experts(self) -> list[str]:
        """experts.safetensors. Returns the manifest's checksums, one string per expert."""
        writer = self._write_tensors(
            "experts.safetensors",
            [
                _Record(entry, partial(self._packer.expert_jobs, expert))
                for entry, expert in zip(
                    self._plan.expert_entries(), self._plan.experts(), strict=True
                )
            ],
        )
        return ["".join(f"{crc32c:08x}" for _, crc32c in entry.pieces) for entry in writer.done]

    def _write_tensors(self, name: str, records: Sequence[_Record]) -> SafetensorsWriter:
        path = self._directory / name
        entries = [record.entry for record in records]
        with SafetensorsWriter(path, entries, self._journal, self._report_progress) as file:
            file.resume()
            self._tell_resumed(file, len(records))
            todo = records[len(file.done) :]
            jobs = (job for record in todo for job in record.jobs())
            with closing(in_order(jobs, self._workers)) as pieces:
                for record in todo:
                    self._write_tensor(file, record.entry, pieces)
        for entry in file.done:
            for kind, error, squares in entry.errors:
                self.report.add(kind, error, squares)
        self.files[name] = WrittenFile(file.nbytes, file.sha256)
        self._finished += file.nbytes
        return file

    def _write_tensor(
        self, file: SafetensorsWriter, tensor: TensorEntry, pieces: Iterator[Piece]
    ) -> None:
        errors: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        missing = tensor.nbytes
        while missing > 0:
            piece = next(pieces)
            file.write(piece.data)
            missing -= piece.data.size
            for kind, error, squares in piece.errors:
                errors[kind][0] += error
                errors[kind][1] += squares
        file.finish_tensor([(kind, error, squares) for kind, (error, squares) in errors.items()])

    def write_file(self, name: str, data: bytes) -> None:
        """A small file, synced."""
        replace_file(self._directory / name, data)
        self.files[name] = WrittenFile(len(data), hashlib.sha256(data).hexdigest())

    def _tell_resumed(self, file: SafetensorsWriter, tensors: int) -> None:
        if self._notice is not None and file.done:
            self._notice(
                f"resuming {file.path.name}: {len(file.done)} of {tensors} tensors "
                f"({file.nbytes:,} bytes) were finished before and are intact"
            )

    def _report_progress(self, nbytes: int) -> None:
        if self._progress is not None:
            self._progress(self._finished + nbytes, self._total)
