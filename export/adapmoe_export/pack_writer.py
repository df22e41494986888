# SPDX-License-Identifier: Apache-2.0
"""Streams a checkpoint into a pack, a few tensors in memory at a time."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from adapmoe import _core
from adapmoe_export.architecture import Json
from adapmoe_export.destination import staged_directory
from adapmoe_export.error_report import ErrorReport
from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.manifest import WrittenFile, make_manifest, serialize
from adapmoe_export.matrix_packer import MatrixPacker
from adapmoe_export.options import ExportOptions
from adapmoe_export.plan import PackPlan, make_plan
from adapmoe_export.registry import find_architecture
from adapmoe_export.safetensors_writer import SafetensorsWriter

# Copied where the checkpoint has them.
COPIED_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
_MANIFEST_ALLOWANCE = 16 << 20  # more than any manifest.json needs, for the free-space check

Progress = Callable[[int, int], None]  # (bytes written so far, bytes in all)


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
    progress: Progress | None = None,
) -> Json:
    """Write the pack of the checkpoint `source` to `out`; return its manifest.

    The options are those of ExportOptions. The checkpoint is checked in full (names, shapes,
    dtypes) before anything is written, and `out` appears only when it is complete. Raises
    CheckpointError and ExportError.
    """
    options = ExportOptions(experts, dense, group_size, tile_width, overwrite, threads)
    checkpoint = HfCheckpoint(source)
    architecture = find_architecture(checkpoint.config, checkpoint.config_path)
    config = architecture.parse_config(checkpoint.config, checkpoint.config_path)
    plan = make_plan(architecture, config, options)
    checkpoint.check(plan.sources(), lambda name: architecture.ignores(config, name))
    copied = [source / name for name in COPIED_FILES if (source / name).is_file()]
    needed = plan.total_bytes() + sum(path.stat().st_size for path in copied)
    with staged_directory(out, options.overwrite, needed + _MANIFEST_ALLOWANCE) as directory:
        writer = _PackWriter(checkpoint, plan, directory, progress)
        writer.write_dense()
        crc32c = writer.write_experts()
        for path in copied:
            writer.write_file(path.name, path.read_bytes())
        errors = writer.report.summary()
        manifest = make_manifest(plan, checkpoint, writer.files, crc32c, errors)
        writer.write_file("manifest.json", serialize(manifest))
    return manifest


class _PackWriter:
    """Writes the files of one pack into `directory`."""

    def __init__(
        self,
        checkpoint: HfCheckpoint,
        plan: PackPlan,
        directory: Path,
        progress: Progress | None,
    ) -> None:
        self.files: dict[str, WrittenFile] = {}
        self.report = ErrorReport()
        self._plan = plan
        self._directory = directory
        self._packer = MatrixPacker(checkpoint, plan, self.report)
        self._progress = progress
        self._total = plan.total_bytes()
        self._finished = 0  # bytes of the files that are complete

    def write_dense(self) -> None:
        """dense.safetensors."""
        path = self._directory / "dense.safetensors"
        with SafetensorsWriter(path, self._plan.dense_entries()) as file:
            for tensor in self._plan.dense:
                for piece in self._packer.dense_pieces(tensor):
                    file.write(piece)
                    self._report_progress(file)
        self._finish(file)

    def write_experts(self) -> list[str]:
        """experts.safetensors. Returns the manifest's checksums, one string per expert."""
        path = self._directory / "experts.safetensors"
        checksums = []
        with SafetensorsWriter(path, self._plan.expert_entries()) as file:
            for expert in self._plan.experts():
                digits = ""
                for tile in self._packer.expert_tiles(expert):
                    file.write(tile)
                    digits += f"{_core.crc32c(tile):08x}"
                    self._report_progress(file)
                checksums.append(digits)
        self._finish(file)
        return checksums

    def write_file(self, name: str, data: bytes) -> None:
        """A small file, synced."""
        with (self._directory / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.files[name] = WrittenFile(len(data), hashlib.sha256(data).hexdigest())

    def _finish(self, file: SafetensorsWriter) -> None:
        self.files[file.path.name] = WrittenFile(file.nbytes, file.sha256)
        self._finished += file.nbytes

    def _report_progress(self, file: SafetensorsWriter) -> None:
        if self._progress is not None:
            self._progress(self._finished + file.nbytes, self._total)
