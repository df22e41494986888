# SPDX-License-Identifier: Apache-2.0
"""manifest.json: what the pack is, in bytes that depend on the checkpoint and the options only."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from adapmoe import _core
from adapmoe_export.architecture import Json
from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.plan import PackPlan

FORMAT = "adapmoe-pack"
FORMAT_VERSION = 1
CHECKSUM = "~crc32c"  # a name that sorts after every other key


@dataclass(frozen=True)
class WrittenFile:
    """A finished file of the pack."""

    nbytes: int
    sha256: str


def make_manifest(
    plan: PackPlan,
    checkpoint: HfCheckpoint,
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
        "config": asdict(plan.config),
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
        "provenance": {
            "exporter": f"adapmoe {_core.__version__}",
            "source_config_sha256": hashlib.sha256(checkpoint.config_bytes).hexdigest(),
            "source_dtype": "+".join(sorted(checkpoint.dtypes)),
        },
    }


def join_checksums(pieces: Iterable[tuple[int, int]]) -> int:
    """The CRC-32C of pieces in a row from (bytes, CRC-32C) of each."""
    joined = 0
    for nbytes, checksum in pieces:
        # Going on from `joined` differs from beginning anew by the same amount for all bytes.
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
