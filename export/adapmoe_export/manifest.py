# SPDX-License-Identifier: Apache-2.0
"""manifest.json: what the pack is, in bytes that depend on the checkpoint and the options only."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np

from adapmoe import _core
from adapmoe_export.architecture import Json
from adapmoe_export.errors import ExportError
from adapmoe_export.hf_checkpoint import COPIED_FILES
from adapmoe_export.plan import MAX_JSON_BYTES, MAX_JSON_VALUES, PackPlan
from adapmoe_export.safetensors_file import READABLE, make_header

FORMAT = "adapmoe-pack"
FORMAT_VERSION = 1
_MAX_FILE_BYTES = 1 << 50  # as the runtime reads it
_QUOTED = re.compile(rb'"[^"]*"')  # a string without escapes, as all of ours are
CHECKSUM = "~crc32c"  # a name that sorts after every other key


@dataclass(frozen=True)
class WrittenFile:
    """A finished file of the pack."""

    nbytes: int
    sha256: str


def make_manifest(
    plan: PackPlan,
    provenance: Json,
    files: dict[str, WrittenFile],
    crc32c: list[str],
    dense_crc32c: dict[str, str],
    quantization_error: Json,
) -> Json:
    """The manifest as a JSON object, without its own checksum.

    `crc32c` has one string per expert, layer-major; `dense_crc32c` one per dense tensor.
    """
    options = plan.options
    dense = plan.dense_geometry()
    for name, digits in dense_crc32c.items():
        dense["tensors"][name]["crc32c"] = digits
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "requires": [],
        "architecture": plan.architecture.name,
        "config": msgspec.structs.asdict(plan.config),
        "router": plan.architecture.router(plan.config),
        "expert_ffn": plan.architecture.expert_ffn,
        "quantization": {
            role: {"dtype": dtype, "group_size": options.group_size_of(dtype)}
            for role, dtype in (("experts", options.experts), ("dense", options.dense))
        },
        "experts": plan.expert_geometry() | {"crc32c": crc32c},
        "dense": dense,
        "files": {
            name: {"bytes": file.nbytes, "sha256": file.sha256} for name, file in files.items()
        },
        "quantization_error": quantization_error,
        "provenance": provenance,
    }


def provenance(config_bytes: bytes, dtypes: Iterable[str]) -> Json:
    """Where the weights come from: the bytes of config.json and the dtypes of the tensors."""
    return {
        "exporter": f"adapmoe {_core.__version__}",
        "source_config_sha256": hashlib.sha256(config_bytes).hexdigest(),
        "source_dtype": "+".join(sorted(dtypes)),
    }


def check_limits(plan: PackPlan) -> int:
    """Raise ExportError if the runtime could not read what the pack would list.

    Returns the bytes that manifest.json may take.
    """
    texts = {}
    files = dict.fromkeys(COPIED_FILES, WrittenFile(_MAX_FILE_BYTES, "0" * 64))
    for name, entries in (
        ("dense.safetensors", plan.dense_entries()),
        ("experts.safetensors", plan.expert_entries()),
    ):
        header = make_header(entries)
        texts[name] = header[8:]
        nbytes = len(header) + sum(entry.nbytes for entry in entries)
        if nbytes > _MAX_FILE_BYTES:
            raise ExportError(f"{name} would have {nbytes} bytes, at most {_MAX_FILE_BYTES} fit")
        files[name] = WrittenFile(_MAX_FILE_BYTES, "0" * 64)
    kinds = {source.kind for tensor in plan.dense if (source := tensor.source) is not None}
    kinds |= {
        matrix.kind for matrix in plan.architecture.expert(plan.config, 0, 0, plan.fused).matrices()
    }
    texts["manifest.json"] = serialize(
        make_manifest(
            plan,
            provenance(b"", READABLE),
            files,
            ["0" * 8 * plan.tiling.tiles] * len(plan.expert_entries()),
            {tensor.name: "0" * 8 for tensor in plan.dense},
            {kind: {"relative_rmse": -1.23456e-100} for kind in kinds},
        )
    )
    for name, text in texts.items():
        values = 1 + sum(_QUOTED.sub(b"", text).count(mark) for mark in (b",", b"{", b"["))
        if len(text) > MAX_JSON_BYTES or values > MAX_JSON_VALUES:
            raise ExportError(
                f"{name} would list {values} values in {len(text)} bytes, and the runtime reads at "
                f"most {MAX_JSON_VALUES} in {MAX_JSON_BYTES}: the model has too many tensors; "
                "wider tiles (--tile-width) may help"
            )
    return len(texts["manifest.json"])


def join_checksums(pieces: Iterable[tuple[int, int]]) -> int:
    """The CRC-32C of pieces in a row from (bytes, CRC-32C) of each."""
    joined = 0
    for nbytes, checksum in pieces:
        # A CRC started from `joined` differs from one started from 0 by the same bits, whatever the
        # bytes are, so zeros show which.
        zeros = np.zeros(nbytes, np.uint8)
        joined = checksum ^ _core.crc32c(zeros) ^ _core.crc32c(zeros, joined)
    return joined


def serialize(manifest: Json) -> bytes:
    """UTF-8, keys sorted; the last line but one is the CRC-32C of all bytes before it."""
    unsigned = {key: value for key, value in manifest.items() if key != CHECKSUM}
    text = json.dumps(unsigned, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    covered = (text.removesuffix("\n}") + ",\n").encode()
    checksum = _core.crc32c(np.frombuffer(covered, np.uint8))
    return covered + f'  "{CHECKSUM}": "{checksum:08x}"\n}}\n'.encode()
