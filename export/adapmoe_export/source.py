# SPDX-License-Identifier: Apache-2.0
"""From a directory to a checked checkpoint and the layout of its pack."""

from pathlib import Path

from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.options import ExportOptions
from adapmoe_export.plan import PackPlan, make_plan
from adapmoe_export.registry import find_architecture


def open_checkpoint(source: Path, options: ExportOptions) -> tuple[HfCheckpoint, PackPlan]:
    """A checkpoint that was checked and the layout of its pack.

    Raises CheckpointError, and ExportError for a tile width that does not fit.
    """
    checkpoint = HfCheckpoint(source)
    architecture = find_architecture(checkpoint.config, checkpoint.config_path)
    config = architecture.parse_config(checkpoint.config, checkpoint.config_path)
    checkpoint.rename(architecture.published_name)
    plan = make_plan(architecture, config, options, architecture.is_fused(checkpoint.names))
    checkpoint.check(plan.sources(), lambda name: architecture.ignores(config, name))
    return checkpoint, plan
