# SPDX-License-Identifier: Apache-2.0
"""The class that users open a pack with."""

import logging
import os
import sys
from collections.abc import Sequence as ItemSequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapmoe.stats import describe_split
from adapmoe.text_level import TextLevel
from adapmoe.tokenizer import Tokenizer
from adapmoe.units import parse_memory

if TYPE_CHECKING:
    from adapmoe import _core

_log = logging.getLogger("adapmoe")


def _open_session(path: str, **options: Any) -> "_core.Session":  # noqa: ANN401
    from adapmoe._core import Session

    return Session(path, **options)


class LLM(TextLevel):
    """A Mixture-of-Experts model, opened from a pack, its experts streamed under a memory ceiling.

    Example:
        with adapmoe.LLM("mixtral.adapmoe", memory="12GiB") as llm:
            print(llm.generate("The first law of robotics").text)

    Threads: all methods may be called from any thread at any time. The core computes one step at a
    time, so calls of several threads take turns; what each gets is what it would get alone, bit by
    bit. A call waits only for the steps before it, not for whole generations, with one exception:
    `generate` and `chat` (streams and the asynchronous ones too) need one of `max_sequences` places
    and wait while all are held by generations of other threads or tasks. Where that wait might
    never end, they raise AdapmoeError: all places are held by sequences opened by hand, or this
    thread or task holds one itself by a stream that it has not finished. `new_sequence` and `fork`
    never wait. One `Sequence` or stream is meant for one thread at a time. `close` lets the running
    step end; then every other use, in whatever thread, raises ClosedError.

    Args:
        path: the pack, a directory that `adapmoe export` wrote.
        memory: ceiling for weights, KV cache, scratch and experts: bytes, "12GiB", or "auto"
            (80 % of what this process may still take).
        threads: compute threads; None: one per core available to the process.
        gating: "off" is exact; "sensitivity" skips experts by `gating_threshold` and
            `sensitivity`.
        expert_fraction: instead of `memory`: as much as keeps this share (0 to 1) of all
            experts resident; 0: off.
        max_context: most tokens per sequence; 0: what the model was trained for, at most 4096.
        max_sequences: sequences open at the same time; each reserves a KV cache of max_context.
        kv_dtype: "f16" or "f32".
        kernels: "auto", "scalar" or "avx2"; all give the same bits.
        backend: "auto", "cpu" or "cuda".
        policy: which expert to evict: "farthest-layer" or "lru".
        verify: check the CRC of tiles: "always", the "first" time they are read, or "never".
        gating_threshold: T of the gating rule; 0 never skips.
        sensitivity: one value per layer, from calibration.
        prefill_chunk: most prompt tokens per step.
        readers: reader threads.
        direct_io: bypass the page cache where the file system allows it.
        verbose: print the memory split to stderr.

    Raises:
        PackError: not a pack, damaged, or of an unknown version.
        BudgetError: `memory` is below the floor; the message has the bytes needed.
        BackendUnavailableError: backend or kernels that this machine lacks.
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        memory: int | str = "auto",
        threads: int | None = None,
        gating: str = "off",
        *,
        expert_fraction: float = 0.0,
        max_context: int = 0,
        max_sequences: int = 1,
        kv_dtype: str = "f16",
        kernels: str = "auto",
        backend: str = "auto",
        policy: str = "farthest-layer",
        verify: str = "always",
        gating_threshold: float = 0.0,
        sensitivity: ItemSequence[float] = (),
        prefill_chunk: int = 128,
        readers: int = 4,
        direct_io: bool = True,
        verbose: bool = False,
    ) -> None:
        """Open a pack and reserve all memory that it will use; see the class for the arguments."""
        if expert_fraction and memory != "auto":
            raise ValueError("give either memory or expert_fraction, not both")
        if not 0 <= expert_fraction <= 1:
            raise ValueError(f"expert_fraction must be from 0 to 1, not {expert_fraction!r}")
        tokenizer = _read_tokenizer(Path(path))
        session = _open_session(
            str(path),
            memory_bytes=parse_memory(memory),
            expert_fraction=expert_fraction,
            threads=threads or 0,
            max_context=max_context,
            max_sequences=max_sequences,
            kv_dtype=kv_dtype,
            prefill_chunk=prefill_chunk,
            backend=backend,
            kernels=kernels,
            policy=policy,
            readers=readers,
            direct_io=direct_io,
            verify=verify,
            gating=gating,
            gating_threshold=gating_threshold,
            sensitivity=list(sensitivity),
        )
        super().__init__(path, session, prefill_chunk, tokenizer)
        for note in session.notes:
            _log.warning("%s", note)
        if verbose:
            print(f"{self._path}: {self.backend}", file=sys.stderr)
            print(describe_split(self.memory_split), file=sys.stderr)


def _read_tokenizer(pack: Path) -> Tokenizer | None:
    """A pack without a tokenizer still runs on token ids."""
    return Tokenizer.from_pack(pack) if (pack / "tokenizer.json").exists() else None
