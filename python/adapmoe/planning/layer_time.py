# SPDX-License-Identifier: Apache-2.0
"""The model of a decode step: per layer, computing and reading experts overlap."""

from dataclasses import dataclass, replace
from math import comb


@dataclass(frozen=True)
class LayerTime:
    """Seconds per layer of one token.

    Attributes:
        num_layers, top_k, tiles: of the pack; tiles per expert.
        dense_s: everything but experts.
        expert_s: computing one expert.
        read_s: reading one expert, as the runtime does it.
    """

    num_layers: int
    top_k: int
    tiles: int
    dense_s: float
    expert_s: float
    read_s: float

    def layer_s(self, misses: int) -> float:
        """Reads begin first; only the last tile's computation cannot hide behind them."""
        computing = self.top_k * self.expert_s
        if misses == 0:
            return self.dense_s + computing
        return self.dense_s + max(computing, misses * self.read_s + self.expert_s / self.tiles)

    def token_s(self, hit_rate: float) -> float:
        """Expected time of a token whose experts are found resident independently."""
        miss = 1.0 - hit_rate
        k = self.top_k
        return self.num_layers * sum(
            comb(k, m) * miss**m * hit_rate ** (k - m) * self.layer_s(m) for m in range(k + 1)
        )

    def fitted(self, token_s: float, hit_rate: float) -> "LayerTime":
        """The same with the `read_s` that explains a measured token; 0 if none is needed."""
        low, high = 0.0, token_s / max(1.0 - hit_rate, 1e-6)
        if replace(self, read_s=low).token_s(hit_rate) >= token_s:
            return replace(self, read_s=low)
        for _ in range(60):
            middle = (low + high) / 2
            if replace(self, read_s=middle).token_s(hit_rate) < token_s:
                low = middle
            else:
                high = middle
        return replace(self, read_s=high)


def split_compute(
    compute_s: float, dense_bytes: int, expert_bytes: int, num_layers: int, top_k: int, tiles: int
) -> LayerTime:
    """Share a token's computing time between dense weights and experts by their bytes.

    Args:
        compute_s: of one token with everything resident.
        dense_bytes: dense weights that one token reads.
        expert_bytes: of one expert.
        num_layers, top_k, tiles: of the pack.
    """
    per_expert = compute_s * expert_bytes / (dense_bytes + num_layers * top_k * expert_bytes)
    dense_s = compute_s / num_layers - top_k * per_expert
    return LayerTime(num_layers, top_k, tiles, dense_s, per_expert, 0.0)
