# SPDX-License-Identifier: Apache-2.0
"""How many tiles are packed at once, and by how many threads each."""

from adapmoe import _core
from adapmoe_export.hf_checkpoint import HfCheckpoint
from adapmoe_export.plan import PackPlan

_MEMORY_BYTES = 160 << 20  # for tiles being packed, and packed ones that wait to be written
_MOST = 16  # pieces of dense matrices are larger than the tiles of a small model


def choose_workers(checkpoint: HfCheckpoint, plan: PackPlan) -> tuple[int, int]:
    """(tiles at once, threads for each). Many cores share fewer tiles, to bound the memory."""
    threads = plan.options.threads or _core.usable_cpus()
    itemsize = max(checkpoint.itemsize(spec) for spec in plan.sources())
    rows_bytes = 2 * plan.tiling.tile_width * plan.config.hidden_size * itemsize
    fitting = max(1, _MEMORY_BYTES // (rows_bytes + 2 * plan.tiling.tile_bytes))
    workers = min(threads, _MOST, fitting)
    return workers, -(-threads // workers)
