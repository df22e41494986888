# SPDX-License-Identifier: Apache-2.0
"""What an unfinished export must have in common with the run that goes on with it."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from adapmoe import _core
from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.manifest import FORMAT_VERSION
from adapmoe_export.plan import PackPlan


def fingerprint(plan: PackPlan, checkpoint: HfCheckpoint) -> str:
    """Hex digest of everything that the bytes of the pack depend on.

    The weights themselves would take too long: their files count by name, size, modification time
    and header.
    """
    known = {
        "exporter": _core.__version__,
        "format_version": FORMAT_VERSION,
        "config": hashlib.sha256(checkpoint.config_bytes).hexdigest(),
        "dtypes": [plan.options.experts, plan.options.dense, plan.options.group_size],
        "tiling": asdict(plan.tiling),
        "files": [_file(path) for path in checkpoint.files],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _file(path: Path) -> list[object]:
    status = path.stat()
    with path.open("rb") as file:
        length = file.read(8)
        header = hashlib.sha256(length + file.read(int.from_bytes(length, "little"))).hexdigest()
    return [path.name, status.st_size, status.st_mtime_ns, header]
