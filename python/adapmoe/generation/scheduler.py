# SPDX-License-Identifier: Apache-2.0
"""The step loop: prompts in, chunks of text out, several sequences decoded together."""

from collections import deque
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adapmoe.generation.params import SamplingParams
from adapmoe.generation.request import Generation, GenerationChunk, GenerationResult, token_limit
from adapmoe.generation.sequence import Sequence as TokenStream
from adapmoe.generation.slots import Place

if TYPE_CHECKING:
    from adapmoe.text_level import TextLevel


class StepLoop:
    """Runs prompts one step at a time; who drives it decides where steps run and how to wait.

    While `needs_place`, pass a place to `begin`; until `finished`, call `step`. New chunks are in
    `ready`.
    """

    def __init__(
        self,
        llm: "TextLevel",
        prompts: Sequence[NDArray[np.int32]],
        params: SamplingParams,
        continued: TokenStream | None = None,
        *,
        answers: bool = False,
    ) -> None:
        """Check everything that can be checked before any work.

        Args:
            llm: the model.
            prompts: int32 `[n]` each, n >= 1, ids inside the vocabulary.
            params: for all of them.
            continued: a sequence that holds the beginning of the only prompt, shorter than it; it
                stays open.
            answers: the texts are answers of a chat, not continuations of the prompts.

        Raises:
            ContextOverflowError: a prompt and its answer do not fit into the context.
            ValueError: `params` name a token that is not in the vocabulary.
        """
        params.check_vocabulary(llm.vocab_size)
        self._llm = llm
        self._continued = continued
        self._all = [
            Generation(
                index,
                prompt,
                params,
                token_limit(len(prompt), params.max_tokens, llm.max_context),
                llm.tokenizer,
                answers=answers,
            )
            for index, prompt in enumerate(prompts)
        ]
        self._waiting = deque(self._all)
        self._active: dict[int, tuple[Generation, TokenStream]] = {}
        self.ready: deque[GenerationChunk] = deque()
        if continued is not None:
            self._activate(continued)

    @property
    def finished(self) -> bool:
        """No step is left."""
        return not self._waiting and not self._active

    @property
    def needs_place(self) -> bool:
        """The next prompt cannot begin without a place."""
        return bool(self._waiting) and not self._active

    def begin(self, place: Place) -> None:
        """Let the next prompt begin in `place`."""
        self._activate(self._llm._open_sequence(place))

    def _activate(self, sequence: TokenStream) -> None:
        generation = self._waiting.popleft()
        generation.throttle_counts = self._llm.power.throttle_counts()
        self._active[generation.index] = (generation, sequence)

    def step(self, owner: Hashable) -> None:
        """Prefill the next part of a prompt if there is one, or else decode all sequences.

        `owner`: who holds the places that further prompts take if they are free.
        """
        self._llm._opened_in.check()  # before the power meter takes locks
        if self._waiting and (place := self._llm._places.try_take(owner)):
            self.begin(place)
        for generation, sequence in self._active.values():
            if not generation.token_ids:
                self._prefill(generation, sequence)
                return
        self._decode()

    def _prefill(self, generation: Generation, sequence: TokenStream) -> None:
        """One part only, so that others get their turn and a cancelled prompt ends soon."""
        part = generation.prompt[sequence.length :][: self._llm.prefill_chunk]
        with self._llm.power.span() as span:
            logits = sequence.prefill(part)
        generation.stats.add_prefill(sequence.last_stats, len(part), span.seconds, span.joules)
        if sequence.length == len(generation.prompt):
            generation.advance(logits)
            self._emit(generation, sequence)

    def _decode(self) -> None:
        active = list(self._active.values())
        with self._llm.power.span() as span:
            rows = self._llm.decode_batch([(seq, gen.token_ids[-1]) for gen, seq in active])
            for (generation, _), logits in zip(active, rows, strict=True):
                generation.advance(logits)
        for generation, sequence in active:
            generation.stats.add_decode(sequence.last_stats, span.seconds, span.joules)
            self._emit(generation, sequence)

    def _emit(self, generation: Generation, sequence: TokenStream) -> None:
        chunk = generation.take_chunk()
        if chunk is not None:
            self.ready.append(chunk)
        if generation.finish_reason:
            throttled = self._llm.power.throttled_since(generation.throttle_counts)
            generation.stats.throttled = throttled
            del self._active[generation.index]
            self._leave(sequence)

    def _leave(self, sequence: TokenStream) -> None:
        if sequence is not self._continued:
            sequence.close()

    @property
    def results(self) -> list[GenerationResult]:
        """What there is of every prompt, in order."""
        return [generation.result() for generation in self._all]

    def close(self) -> None:
        """Give all places back; `results` keeps what was generated."""
        self._waiting.clear()
        while self._active:
            _, (_, sequence) = self._active.popitem()
            self._leave(sequence)
