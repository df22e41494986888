# SPDX-License-Identifier: Apache-2.0
"""The model of a decode step: per layer, computing and reading experts overlap."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import comb


@dataclass(frozen=True)
class LayerTime:
    """Seconds per layer of one token.

    Attributes:
        num_layers, top_k, tiles: of the pack; tiles per expert.
        dense_s: everything but experts.
        expert_s: computing one expert.
        wait_s: what a layer with misses takes longer even if they are read in no time.
        read_s: reading one expert, as the runtime does it.
    """

    num_layers: int
    top_k: int
    tiles: int
    dense_s: float
    expert_s: float
    wait_s: float = 0.0
    read_s: float = 0.0

    def layer_s(self, misses: int) -> float:
        """Reads begin first; only the last tile's computation cannot hide behind them."""
        computing = self.top_k * self.expert_s
        if misses == 0:
            return self.dense_s + computing
        return self.dense_s + max(computing, self.reading_s(misses) + self.expert_s / self.tiles)

    def reading_s(self, misses: int) -> float:
        """Until the last of some experts, asked for together, has arrived."""
        return self.wait_s + misses * self.read_s

    def token_s(self, hit_rate: float) -> float:
        """Expected time of a token whose experts are found resident independently."""
        miss = 1.0 - hit_rate
        k = self.top_k
        return self.num_layers * sum(
            comb(k, m) * miss**m * hit_rate ** (k - m) * self.layer_s(m) for m in range(k + 1)
        )

    def fitted(self, starved: "Measured", partly: "Measured | None" = None) -> "LayerTime":
        """The same with the `read_s`, and the `wait_s`, that explain measured tokens.

        Args:
            starved: with little memory: nearly every layer waits for all of its experts.
            partly: with more memory: most layers that wait do so for one expert; this tells the
                two times apart. None leaves `wait_s` 0.
        """
        if partly is None:
            return self._with_read(0.0, starved)
        longest = starved.token_s / self.num_layers
        return bisect(
            lambda wait_s: self._with_read(wait_s, starved),
            longest,
            lambda time: time.token_s(partly.hit_rate) < partly.token_s,
        )

    def _with_read(self, wait_s: float, starved: "Measured") -> "LayerTime":
        return bisect(
            lambda read_s: replace(self, wait_s=wait_s, read_s=read_s),
            starved.token_s / max(1.0 - starved.hit_rate, 1e-6),
            lambda time: time.token_s(starved.hit_rate) < starved.token_s,
        )


@dataclass(frozen=True)
class Measured:
    """Seconds per token at a hit rate."""

    token_s: float
    hit_rate: float


def bisect(
    make: Callable[[float], LayerTime], most: float, too_fast: Callable[[LayerTime], bool]
) -> LayerTime:
    """`make` of the least parameter from 0 to `most` that is no longer too fast."""
    if not too_fast(make(0.0)):
        return make(0.0)
    low, high = 0.0, most
    for _ in range(50):
        middle = (low + high) / 2
        if too_fast(make(middle)):
            low = middle
        else:
            high = middle
    return make(high)


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
    return LayerTime(num_layers, top_k, tiles, dense_s, per_expert)
