# SPDX-License-Identifier: Apache-2.0
"""The class that users open a pack with."""

import logging
import os
import sys
import weakref
from collections.abc import Sequence as ItemSequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import AdapmoeError, PackError
from adapmoe.generate import GenerationStream
from adapmoe.generation import GenerationResult
from adapmoe.sampling_params import SamplingParams
from adapmoe.sequence import Sequence, TokenIds, as_token_ids, decode_batch
from adapmoe.stats import describe_split
from adapmoe.tokenizer import Tokenizer
from adapmoe.units import parse_memory

if TYPE_CHECKING:
    from adapmoe import _core

_log = logging.getLogger("adapmoe")


def _open_session(path: str, **options: Any) -> "_core.Session":  # noqa: ANN401
    from adapmoe._core import Session

    return Session(path, **options)


class LLM:
    """A Mixture-of-Experts model, opened from a pack, its experts streamed under a memory ceiling.

    Example:
        with adapmoe.LLM("mixtral.adapmoe", memory="12GiB") as llm:
            print(llm.generate("The first law of robotics").text)

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
        self._path = Path(path)
        self._tokenizer = self._read_tokenizer()
        self._core: _core.Session | None = _open_session(
            str(self._path),
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
        self._sequences: weakref.WeakSet[Sequence] = weakref.WeakSet()
        for note in self._core.notes:
            _log.warning("%s", note)
        if verbose:
            print(f"{self._path}: {self.backend}", file=sys.stderr)
            print(describe_split(self.memory_split), file=sys.stderr)

    def _read_tokenizer(self) -> Tokenizer | None:
        """A pack without a tokenizer still runs on token ids."""
        present = (self._path / "tokenizer.json").exists()
        return Tokenizer.from_pack(self._path) if present else None

    @property
    def _session(self) -> "_core.Session":
        if self._core is None:
            raise AdapmoeError(f"{self._path}: this LLM is closed")
        return self._core

    @overload
    def generate(
        self,
        prompt: str | TokenIds,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
    ) -> GenerationResult: ...
    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
    ) -> list[GenerationResult]: ...
    @overload
    def generate(
        self,
        prompt: str | TokenIds | list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
    ) -> GenerationStream: ...
    def generate(
        self,
        prompt: str | TokenIds | list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
    ) -> GenerationResult | list[GenerationResult] | GenerationStream:
        """Continue one prompt or several.

        Args:
            prompt: text, token ids, or a list of either. Text gets the begin-of-sequence token.
            params: how to sample; None: greedy, up to 256 tokens.
            stream: return an iterator of chunks instead of waiting for the end.

        Returns:
            One result for one prompt, a list in the same order for a list, or a `GenerationStream`.

        Raises:
            ContextOverflowError: a prompt and its answer do not fit into max_context; no step has
                run.
            PackError: the pack has no tokenizer.
            ReadError: an expert could not be read.
            ValueError: token ids that are not in the vocabulary.
        """
        single = _is_single(prompt)
        prompts = [prompt] if single else list(prompt)
        chunks = GenerationStream(
            self, [self._encode(p) for p in prompts], params or SamplingParams()
        )
        if stream:
            return chunks
        with chunks:
            for _ in chunks:
                pass
        return chunks.results[0] if single else chunks.results

    def _encode(self, prompt: Any) -> NDArray[np.int32]:  # noqa: ANN401 - as_token_ids checks it
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        return as_token_ids(ids, self.vocab_size)

    def new_sequence(self) -> Sequence:
        """Begin a token stream to drive step by step.

        Raises:
            AdapmoeError: all `max_sequences` places are taken.
        """
        sequence = Sequence(self._session.new_sequence(), self.vocab_size)
        self._sequences.add(sequence)
        return sequence

    def decode_batch(self, items: ItemSequence[tuple[Sequence, int]]) -> NDArray[np.float32]:
        """Append one token to each of several sequences in one step.

        Args:
            items: (sequence, token id) pairs, every sequence at most once.

        Returns:
            float32 `[n, vocab_size]`: the logits after each token, in the order of `items`, bit by
            bit what `Sequence.decode` would return.

        Raises:
            ContextOverflowError, ReadError, ValueError: as `Sequence.decode`.
        """
        return decode_batch(self._session, items)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the pack. Raises PackError where there is none."""
        if self._tokenizer is None:
            raise PackError(
                f"{self._path / 'tokenizer.json'}: missing; use new_sequence with token ids"
            )
        return self._tokenizer

    @property
    def memory_split(self) -> "_core.MemorySplit":
        """What the ceiling is spent on, in bytes."""
        return self._session.memory_split

    @property
    def stats(self) -> "_core.StepStats":
        """Sums over all steps since the pack was opened."""
        return self._session.totals

    @property
    def vocab_size(self) -> int:
        """Length of a row of logits."""
        return self._session.vocab_size

    @property
    def max_context(self) -> int:
        """Most tokens in one sequence."""
        return self._session.max_context

    @property
    def max_sequences(self) -> int:
        """Most sequences open at the same time."""
        return self._session.max_sequences

    @property
    def free_sequences(self) -> int:
        """How many more sequences can be opened now."""
        return self.max_sequences - sum(not sequence.closed for sequence in self._sequences)

    @property
    def backend(self) -> str:
        """Backend and kernels in use, such as "cpu/avx2"."""
        return self._session.backend

    def close(self) -> None:
        """Close all sequences and give all memory back. Closing twice is harmless."""
        if self._core is not None:
            for sequence in list(self._sequences):
                sequence.close()
            self._core.close()
            self._core = None

    def __enter__(self) -> "LLM":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def _is_single(prompt: Any) -> bool:  # noqa: ANN401 - any prompt that generate accepts
    """Text or one row of token ids, not a list of them. An empty list is a list of no prompts."""
    if isinstance(prompt, str):
        return True
    return len(prompt) > 0 and not isinstance(prompt[0], str) and np.ndim(prompt[0]) == 0
