# SPDX-License-Identifier: Apache-2.0
"""The architectures that can be exported, by config.json's model_type."""

from pathlib import Path

from adapmoe.errors import CheckpointError
from adapmoe_export.architecture import Architecture, Json
from adapmoe_export.mixtral import MIXTRAL

ARCHITECTURES = {"mixtral": MIXTRAL}


def find_architecture(raw_config: Json, path: Path) -> Architecture:
    """The architecture of the config.json at `path`. Raises CheckpointError."""
    model_type = raw_config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise CheckpointError(f"{path}: model_type {model_type!r} is not implemented; have {known}")
    return ARCHITECTURES[model_type]
