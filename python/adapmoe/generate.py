# SPDX-License-Identifier: Apache-2.0
"""The step loop: prompts in, chunks of text out, several sequences decoded together."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adapmoe.generation import Generation, GenerationChunk, GenerationResult, token_limit
from adapmoe.sampling_params import SamplingParams
from adapmoe.sequence import Sequence as TokenStream

if TYPE_CHECKING:
    from adapmoe.llm import LLM


class GenerationStream(Iterator[GenerationChunk]):
    """Iterator of chunks over one or several prompts, from `LLM.generate(..., stream=True)`.

    Up to `max_sequences` prompts are decoded together; the next one starts when one has finished.
    Each text is the same as if its prompt had been alone. Leaving early: `close()`, or use it as a
    context manager.
    """

    def __init__(
        self, llm: "LLM", prompts: Sequence[NDArray[np.int32]], params: SamplingParams
    ) -> None:
        """Use `LLM.generate`. `prompts`: int32 `[n]` each, n >= 1, ids inside the vocabulary.

        Raises:
            ContextOverflowError: a prompt does not fit; no step has run.
        """
        self._llm = llm
        self._all = [
            Generation(
                index,
                prompt,
                params,
                token_limit(len(prompt), params.max_tokens, llm.max_context),
                llm.tokenizer,
            )
            for index, prompt in enumerate(prompts)
        ]
        self._waiting = deque(self._all)
        self._active: dict[int, tuple[Generation, TokenStream]] = {}
        self._ready: deque[GenerationChunk] = deque()

    def __next__(self) -> GenerationChunk:
        """Run steps until a chunk is ready. Raises what the steps raise, and is closed then."""
        while not self._ready:
            if not self._waiting and not self._active:
                raise StopIteration
            try:
                self._step()
            except BaseException:
                self.close()
                raise
        return self._ready.popleft()

    def _step(self) -> None:
        """Prefill one waiting prompt if there is a place for it, or else decode all active ones."""
        if self._waiting and (not self._active or self._llm.free_sequences > 0):
            self._prefill(self._waiting.popleft())
        else:
            self._decode()

    def _prefill(self, generation: Generation) -> None:
        sequence = self._llm.new_sequence()
        self._active[generation.index] = (generation, sequence)
        begin = time.perf_counter()
        logits = sequence.prefill(generation.prompt)
        seconds = time.perf_counter() - begin
        generation.stats.add_prefill(sequence.last_stats, len(generation.prompt), seconds)
        generation.advance(logits)
        self._emit(generation, sequence)

    def _decode(self) -> None:
        begin = time.perf_counter()
        active = list(self._active.values())
        rows = self._llm.decode_batch([(seq, gen.token_ids[-1]) for gen, seq in active])
        for (generation, _), logits in zip(active, rows, strict=True):
            generation.advance(logits)
        seconds = time.perf_counter() - begin
        for generation, sequence in active:
            generation.stats.add_decode(sequence.last_stats, seconds)
            self._emit(generation, sequence)

    def _emit(self, generation: Generation, sequence: TokenStream) -> None:
        chunk = generation.take_chunk()
        if chunk is not None:
            self._ready.append(chunk)
        if generation.finish_reason:
            sequence.close()
            del self._active[generation.index]

    @property
    def results(self) -> list[GenerationResult]:
        """What there is of every prompt, in order; complete once the iterator has ended."""
        return [generation.result() for generation in self._all]

    def close(self) -> None:
        """Stop; give all places back. `results` keeps what was generated."""
        self._waiting.clear()
        for _, sequence in self._active.values():
            sequence.close()
        self._active.clear()

    def __enter__(self) -> "GenerationStream":
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
