# SPDX-License-Identifier: Apache-2.0
"""Type stub of the compiled core. Every call that computes releases the GIL."""

from collections.abc import Sequence as _Seq

import numpy as np
from numpy.typing import NDArray

__version__: str

class MemorySplit:
    """What the ceiling is spent on, in bytes. Everything is reserved when the session opens."""

    memory_bytes: int  # the ceiling
    dense_bytes: int
    kv_bytes: int
    scratch_bytes: int
    expert_bytes: int  # frames * tile_bytes
    tile_bytes: int
    frames: int  # places for one tile each
    frames_total: int  # tiles of all experts: frames == frames_total means that everything fits
    floor_bytes: int  # least memory that can run
    cycle_bytes: int  # bytes of one token's experts

class StepStats:
    """What one step (or, accumulated, several) did."""

    tokens: int  # token rows computed
    experts_used: int  # expert visits, one per (layer, expert) and chunk
    experts_activated: int  # routed (token, layer, expert) triples
    expert_hits: int  # visits that found the expert resident
    bytes_read: int
    stall_s: float  # waiting for expert tiles
    compute_s: float  # wall minus stall
    wall_s: float

class Sequence:
    """One token stream with its KV cache. Closing (or dropping) it gives the KV slot back."""

    @property
    def length(self) -> int: ...  # tokens in the KV cache
    @property
    def closed(self) -> bool: ...
    def prefill(
        self, ids: NDArray[np.int32], all_logits: bool = False
    ) -> tuple[NDArray[np.float32], StepStats]:
        """Logits of the last position [vocab_size], or of all positions [n, vocab_size]."""
    def decode(self, token_id: int) -> tuple[NDArray[np.float32], StepStats]: ...
    def reset(self) -> None: ...  # forget all tokens, keep the slot
    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens. ValueError unless 0 <= length <= self.length."""
    def fork(self) -> Sequence:
        """A new sequence with the same tokens, KV cache copied. ValueError when all are open."""
    def close(self) -> None: ...

class Session:
    """An open pack: arena, readers, thread pool. One step at a time; calls of threads queue up."""

    def __init__(
        self,
        path: str,
        *,
        memory_bytes: int = 0,  # 0: 80 % of the smaller of the cgroup's room and MemAvailable
        expert_fraction: float = 0.0,  # > 0: what holds this share of the experts
        threads: int = 0,  # 0: one per core available to the process
        max_context: int = 0,  # 0: min(max_position_embeddings, 4096)
        max_sequences: int = 1,
        kv_dtype: str = "f16",  # f16 | f32
        prefill_chunk: int = 128,  # token rows per step, at most
        backend: str = "auto",  # auto | cpu | cuda
        kernels: str = "auto",  # auto | scalar | avx2
        policy: str = "farthest-layer",  # farthest-layer | lru
        readers: int = 4,  # reader threads
        direct_io: bool = True,
        verify: str = "always",  # always | first | never: CRC32C of tiles as they are read
        gating: str = "off",  # off | sensitivity
        gating_threshold: float = 0.0,  # T of the paper's rule
        sensitivity: _Seq[float] = (),  # s_i, one per layer
    ) -> None: ...
    def new_sequence(self) -> Sequence: ...
    def decode_batch(
        self, items: _Seq[tuple[Sequence, int]]
    ) -> tuple[NDArray[np.float32], StepStats]: ...
    def set_memory(self, memory_bytes: int) -> MemorySplit:
        """Change the ceiling between steps: experts are evicted, or more can become resident.
        BudgetError below the floor or above what the process may take; the old one then stays."""
    @property
    def memory_split(self) -> MemorySplit: ...
    @property
    def totals(self) -> StepStats: ...  # accumulated since open
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_context(self) -> int: ...
    @property
    def max_sequences(self) -> int: ...
    @property
    def backend(self) -> str: ...  # e.g. "cpu/avx2"
    @property
    def notes(
        self,
    ) -> list[str]: ...  # one line each: O_DIRECT refused, backend fallback, below one cycle
    def close(self) -> None: ...

def inspect_pack(path: str) -> str:
    """The validated manifest as JSON text, without opening a session. Raises PackError."""

def pack_matrix(
    weights: NDArray[np.float32] | NDArray[np.uint16],
    dtype: str,
    group_size: int,
    threads: int = 0,
    source: str = "f32",
) -> tuple[NDArray[np.uint8], float, float]:
    """Pack `[rows, cols]` as FORMAT.md's packed matrix: float32, or with source "bf16" or "f16" the
    uint16 bits of the weights. Returns (bytes, sum of squared error, sum of squares). Non-finite
    weights: ValueError."""

def packing_error(
    data: NDArray[np.uint8],
    rows: int,
    cols: int,
    dtype: str,
    group_size: int,
    weights: NDArray[np.float32] | NDArray[np.uint16],
    source: str = "f32",
) -> tuple[float, float]:
    """(sum of squared error, sum of squares) of `weights` `[<= rows, <= cols]`, given as for
    pack_matrix, in a packed matrix, uint8 `[packed_bytes]`."""

def packed_bytes(rows: int, cols: int, dtype: str, group_size: int) -> int: ...
def crc32c(data: NDArray[np.uint8]) -> int: ...
