# SPDX-License-Identifier: Apache-2.0
"""Type stub of the compiled core. Every call that computes releases the GIL."""

from collections.abc import Sequence as _Seq
from typing import Any as _Any

import numpy as np
from numpy.typing import NDArray

from adapmoe import core_types as _types

__version__: str

class MemorySplit:
    """What the ceiling is spent on, in bytes. Everything is reserved when the session opens."""

    memory_bytes: int  # the ceiling
    dense_bytes: int
    kv_bytes: int
    scratch_bytes: int
    expert_bytes: int  # frames * tile_bytes
    tile_bytes: int
    frames: int  # for one tile each
    frames_total: int  # tiles of all experts: frames == frames_total means that everything fits
    floor_bytes: int  # least memory that can run
    cycle_bytes: int  # bytes of one token's experts
    host_bytes: int  # of the CPU's memory, beside a ceiling on a GPU's own; else 0

class StepStats:
    """What one step (or, accumulated, several) did."""

    tokens: int  # token rows computed
    experts_used: int  # expert visits, one per (layer, expert) and chunk
    experts_activated: int  # routed (token, layer, expert) triples
    expert_hits: int  # visits that found the expert resident
    experts_on_cpu: int  # computed by the CPU though a GPU computes experts
    gated: int  # (token, layer) pairs where the gate left experts out
    dropped_share_sq: float  # sum over them of the squared share of the weight left out
    prefetched: int  # experts read ahead
    prefetch_used: int  # of them, needed afterwards
    prefetch_wasted: int  # of them, evicted unused
    bytes_read: int
    device_waits: int  # of the CPU for the GPU
    device_replays: int  # steps that the GPU repeated from a recorded CUDA graph
    stall_s: float  # waiting for expert tiles
    first_layer_stall_s: float  # of it, in layer 0
    compute_s: float  # wall minus stall
    wall_s: float
    def __init__(self) -> None: ...

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
    def capture(self, ids: NDArray[np.int32]) -> dict[str, _Any]:
        """prefill() of at most prefill_chunk tokens that also records activations. L layers, H
        hidden_size, E experts; float32: logits [n, vocab_size], hidden [L, n, H] (the residual
        stream before the MoE block), moe_input [L, n, H] (after its norm), router_logits
        [L, n, E], final_hidden [n, H] (after the last norm); and stats, a StepStats."""
    def decode(self, token_id: int) -> tuple[NDArray[np.float32], StepStats]: ...
    def reset(self) -> None: ...  # forget all tokens, keep the slot
    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens. ValueError unless 0 <= length <= self.length."""
    def fork(self, length: int | None = None) -> Sequence:
        """A new sequence with the same tokens, or the first `length`, KV cache copied. ValueError
        when all are open, or unless 0 <= length <= self.length."""
    def close(self) -> None: ...

class Session:
    """An open pack: arena, readers, thread pool. Steps run one at a time; threads queue up."""

    def __init__(self, path: str, **settings: object) -> None:
        """Settings are those of session_settings():

        memory: ceiling in bytes; 0: 80 % of what the process may take
        experts_resident: > 0: what holds this share of the experts, instead of memory
        threads: 0: usable_cpus()
        max_context: tokens per sequence; 0: min(max_position_embeddings, 4096)
        max_sequences: KV caches reserved
        kv_dtype: f16 | f32
        prefill_chunk: token rows per step, at most
        backend: auto | cpu | cuda
        kernels: auto | scalar | avx2 | avx512 | neon
        arithmetic: of experts: auto | w4a8 | w4a16 | tensorrt
        exact: only arithmetic with the bits of the CPU
        policy: next-use | farthest-layer | lru | lfru | least-stale
        evict: tile | expert
        prefetch: layers looked ahead at most, 0 (off) to 3
        prefetch_trials: try by step times whether fewer are better
        reader: auto | io_uring | pread
        read_depth: reads at the same time
        request_bytes: of one read at most, a multiple of 4096; 0: a whole tile
        register_buffers: with io_uring, as far as RLIMIT_MEMLOCK allows
        direct_io: bypass the page cache
        verify: CRC32C of tiles as they are read: always | first | never
        gating: off | sensitivity | residency
        gating_threshold: T of the paper's rule
        sensitivity: s_i, one per layer
        timeline: record spans
        layer_floors: experts each layer should keep (soft); (): none
        first_layer_gate: [num_local_experts * hidden_size], row-major; (): none
        first_layer_embedding: foresee layer 0 by its router on the embedding

        TypeError for an unknown name or a value of another type, ValueError out of range.
        """

    def new_sequence(self) -> Sequence: ...
    def step(
        self, items: _Seq[tuple[Sequence, NDArray[np.int32], str]]
    ) -> tuple[NDArray[np.float32], list[StepStats]]:
        """Append ids [n >= 1] to each of several different sequences in one step. The third is
        whose logits are wanted: none | last | all. Returns them, [rows, vocab_size], items in
        order, and statistics per item: tokens, experts_activated, gated and dropped_share_sq are
        its own, the rest is what the whole step did. On error nothing was appended anywhere."""
    def set_memory(self, memory_bytes: int) -> MemorySplit:
        """Change the ceiling. Less evicts experts, between two layers of a step that runs; with
        more, after such a step, more can become resident. BudgetError below the floor or above
        what the process may take; the old ceiling then stays."""
    def set_gating(self, mode: str, threshold: float = 0.0, sensitivity: _Seq[float] = ()) -> None:
        """Change the gate between steps."""
    def set_layer_floors(self, floors: _Seq[int]) -> None:
        """Experts each layer should keep (soft), one per layer; []: none."""
    def record_trace(self, on: bool) -> None:
        """Record routing from now on, or stop and forget it."""
    def trace(self) -> list[_types.RoutingVisit]:
        """The routing recorded."""
    def prediction_scores(self) -> list[_types.PredictionScore]:
        """One per layer, counted since open; [] where prefetch is off."""
    def resident_set(self) -> list[tuple[int, int]]:
        """The resident experts as (layer, expert)."""
    def warm(self, experts: _Seq[tuple[int, int]]) -> int:
        """Read these (layer, expert) in the background as far as frames are free; how many."""
    def timeline(self) -> list[_types.Span]:
        """What a session opened with timeline has recorded."""
    def expert_states(self) -> NDArray[np.uint8]:
        """What every expert is doing now, [layers, experts], a sum of: 1 resident, 2 being read,
        4 used by the latest pass over its layer, 8 left out by the gate in it. Waits for no
        step."""
    @property
    def progress(self) -> int: ...  # grows with every finished read and layer; waits for no step
    @property
    def memory_split(self) -> MemorySplit: ...
    @property
    def pins_memory(self) -> bool: ...  # what it reserved stays taken, whatever set_memory says
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
    def reader(self) -> str: ...  # the one in use: "io_uring" or "pread"
    @property
    def registration(self) -> _types.Registration:
        """What is registered with io_uring now."""
    @property
    def notes(
        self,
    ) -> list[str]: ...  # one line each: O_DIRECT refused, fallbacks, below one cycle
    def close(self) -> None: ...

def session_settings() -> dict[str, _Any]:
    """{name: default} of all settings of a Session."""

def expert_paths(path: str, backend: str) -> _types.ExpertPaths:
    """Ways to compute experts that `backend` has here, the exact one ("w4a8") first. PackError."""

def time_expert(path: str, backend: str, arithmetic: str) -> float:
    """Seconds that one expert takes for one row. BackendUnavailableError, ReadError."""

def inspect_pack(path: str) -> str:
    """The validated manifest as JSON text, without opening a session. Raises PackError."""

def build_info() -> dict[str, _Any]:
    """{"compiler": version, "cuda": built in?, "io_uring": built in?, "tensorrt": major
    versions that can be used where they are installed, "kernels": names that this machine can run,
    best first}."""

def usable_cpus() -> int:
    """Cores that this process may use: its affinity, and the time that its cgroups allow; >= 1."""

def io_uring_problem(path: str) -> str:
    """Why this file cannot be read through io_uring here, "" where it can. Raises PackError where
    there is no such file."""

class ReadProbe:
    """Times bursts of reads from one file, opened with O_DIRECT where that works. The memory that
    they go to is made at once. Raises PackError, ValueError."""

    def __init__(self, path: str, reader: str, bytes: int) -> None: ...
    @property
    def direct(self) -> bool: ...  # the page cache is bypassed
    @property
    def reader(self) -> str: ...  # the one in use
    def seconds(
        self, read_depth: int, request_bytes: int, offset: int, tile_bytes: int, tiles: int
    ) -> float:
        """From submitting the reads of `tiles` tiles to the arrival of the last. Raises ReadError,
        and ValueError for a burst larger than the memory."""

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
def crc32c(data: NDArray[np.uint8], before: int = 0) -> int:
    """CRC-32C (Castagnoli) of the bytes; `before` is that of the bytes in front of them."""

def replay_trace(
    visits: _Seq[tuple[int, int, _Seq[int]]],
    num_layers: int,
    num_experts: int,
    capacity: int,
    policy: str,
    floors: _Seq[int] = (),
    count_from: int = 0,
) -> _types.ReplayCounts:
    """Run recorded routing through an eviction policy with room for `capacity` experts.
    policy "belady": the optimum, of which passes before `count_from` are not counted. ValueError: a
    visit outside the counts, capacity below 1, not one floor per layer, or count_from with another
    policy."""

def allocate_layers(
    prefetch_accuracy: _Seq[float], single_ratio: _Seq[float], experts: int, total: int
) -> list[int]:
    """AdapMoE's dynamic programme: how many of its `experts` each layer keeps of `total` in all;
    [] when there is not one per layer."""

def uniform_layers(num_layers: int, experts: int, total: int) -> list[int]:
    """The same number of experts for every layer, the remainder to the first ones."""

def available_memory(root: str = "") -> int:
    """Bytes that this process may still take: the least of MemAvailable and of what every limit of
    its cgroups and their parents leaves, memory that the kernel can take back counted as free.
    `root`: a tree that holds proc and sys, for tests."""

def memory_limits(root: str = "") -> list[tuple[str, int, int]]:
    """(file, limit, room) of each of those limits in bytes, also such as no machine reaches."""
