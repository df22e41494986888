# SPDX-License-Identifier: Apache-2.0
"""manifest.json: what the pack is, in bytes that depend on the checkpoint and the options only."""

import hashlib
import json
from dataclasses import asdict, dataclass

from adapmoe import _core
from adapmoe_export.architecture import Json
from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.plan import PackPlan

FORMAT = "adapmoe-pack"
FORMAT_VERSION = 1


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
    quantization_error: Json,
) -> Json:
    """The manifest as a JSON object. `crc32c` has one string per expert, layer-major."""
    options = plan.options
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
        "dense": plan.dense_geometry(),
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


def serialize(manifest: Json) -> bytes:
    """UTF-8, keys sorted."""
    text = json.dumps(manifest, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()
