# SPDX-License-Identifier: Apache-2.0
"""From a directory to a checked checkpoint and the layout of its pack.

A new architecture is a file like mixtral.py and a row in ARCHITECTURES.
"""

from pathlib import Path

from msgspec.structs import replace

from adapmoe.errors import CheckpointError
from adapmoe.pack.manifest import ModelConfig
from adapmoe_export.architecture import EMBEDDING, HEAD, Architecture, Json, shown
from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.mixtral import MIXTRAL
from adapmoe_export.plan import ExportOptions, PackPlan, make_plan

ARCHITECTURES = {"mixtral": MIXTRAL}  # by config.json's model_type


def find_architecture(raw_config: Json, path: Path) -> Architecture:
    """The architecture of the config.json at `path`. Raises CheckpointError."""
    model_type = raw_config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise CheckpointError(
            f"{path}: model_type {shown(model_type)} is not implemented; have {known}"
        )
    return ARCHITECTURES[model_type]


def open_checkpoint(source: Path, options: ExportOptions) -> tuple[HfCheckpoint, PackPlan]:
    """A checkpoint that was checked and the layout of its pack.

    Raises CheckpointError, and ExportError for a tile width that does not fit.
    """
    checkpoint = HfCheckpoint(source)
    architecture = find_architecture(checkpoint.config, checkpoint.config_path)
    config = architecture.parse_config(checkpoint.config, checkpoint.config_path)
    checkpoint.rename(architecture.published_name)
    return checkpoint, _checked_plan(checkpoint, architecture, config, options)


def _checked_plan(
    checkpoint: HfCheckpoint,
    architecture: Architecture,
    config: ModelConfig,
    options: ExportOptions,
) -> PackPlan:
    """The layout, with the head tied to the embedding exactly where transformers 5 ties them.

    If the config says so and only one of the two is there, it is used for both. If both are there,
    they are tied only if they hold the same numbers.
    """
    tied, both = config.tie_word_embeddings, {EMBEDDING, HEAD} <= set(checkpoint.names)
    if tied and not both and HEAD in checkpoint.names:
        checkpoint.use_for(EMBEDDING, HEAD)
    if tied and both:
        plan = _check(checkpoint, architecture, replace(config, tie_word_embeddings=False), options)
        matrices = {spec.name: spec for spec in plan.sources()}
        if not checkpoint.same_values(matrices[EMBEDDING], matrices[HEAD]):
            return plan
    return _check(checkpoint, architecture, config, options)


def _check(
    checkpoint: HfCheckpoint,
    architecture: Architecture,
    config: ModelConfig,
    options: ExportOptions,
) -> PackPlan:
    plan = make_plan(architecture, config, options, architecture.is_fused(checkpoint.names))
    checkpoint.check(plan.sources(), lambda name: architecture.ignores(config, name))
    return plan
