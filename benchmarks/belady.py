# SPDX-License-Identifier: Apache-2.0
"""What the best possible eviction would have read for the routing that a run recorded."""

from adapmoe import _core
from adapmoe.core_types import RoutingVisit
from adapmoe.pack.manifest import Manifest


def next_pass(visits: list[RoutingVisit]) -> int:
    """Of the visits recorded so far, the number of the pass that comes next."""
    return 1 + visits[-1].pass_index if visits else 0


def belady_bytes(
    visits: list[RoutingVisit], manifest: Manifest, frames: int, count_from: int
) -> int:
    """Bytes that Belady's optimum misses from pass `count_from` on, in as many frames.

    It knows the whole trace, begins with empty frames at its first pass, works tile by tile as the
    runtime does, and need not keep a tile that it reads: over the whole trace nothing reads less.

    Args:
        visits: from the opening of the session on.
        manifest: of the pack.
        frames: tiles that fit.
        count_from: passes before it fill the frames and are not counted.
    """
    config, tiles = manifest.config, manifest.experts.tiles
    by_tile = [
        (number, layer, [expert * tiles + tile for expert in chosen for tile in range(tiles)])
        for number, layer, chosen in visits
    ]
    needed, hits = _core.replay_trace(
        by_tile,
        config.num_hidden_layers,
        config.num_local_experts * tiles,
        frames,
        "belady",
        count_from=count_from,
    )
    missed: int = (needed - hits) * manifest.experts.tile_bytes
    return missed
