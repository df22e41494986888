# SPDX-License-Identifier: Apache-2.0
"""Runs every step of an open pack: which prompts run, in which slots, and what they cost.

Streams drive it: they decide in which thread a step runs and how to wait for a slot.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable
from collections.abc import Sequence as ItemSequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import ClosedError
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.request import GenerationChunk, GenerationResult, Request, token_limit
from adapmoe.generation.sequence import Sequence, StepItem, decode_batch, step
from adapmoe.generation.slots import Slot, Slots
from adapmoe.machine.power import PowerMeter
from adapmoe.machine.process import OpenedIn
from adapmoe.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from adapmoe import _core


class Worker:
    """One thread that runs the steps of all asynchronous streams; it starts when first needed.

    More threads would not help: the core runs one step at a time, and a single thread gives every
    stream its turn.
    """

    def __init__(self) -> None:
        """Start no thread yet."""
        self._opened_in = OpenedIn()
        self._closed = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="adapmoe")

    async def run(self, call: Callable[[], None]) -> None:
        """Run `call` in the thread. A cancelled task waits for `call` to end before it raises."""
        self._opened_in.check()
        try:
            future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        except RuntimeError as error:  # shut down
            if not self._closed and threading.current_thread() is not threading.main_thread():
                raise SystemExit from error  # Python is exiting; the core's steps end likewise
            raise ClosedError("the model was closed, or Python is exiting") from error
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            raise

    def close(self) -> None:
        """Let the thread end, without waiting for it."""
        self._closed = True
        self._executor.shutdown(wait=False)


class Scheduler:
    """Owns the session of an open pack, its slots and its steps. Thread-safe as `LLM` describes."""

    def __init__(self, session: "_core.Session", path: Path, prefill_chunk: int) -> None:
        """Take over `session`, opened from the pack at `path`.

        Args:
            session: closed by `close`.
            path: for messages.
            prefill_chunk: most prompt tokens per step.
        """
        self._opened_in = OpenedIn()
        self._session: _core.Session | None = session
        self._path = path
        self._prefill_chunk = prefill_chunk
        self.vocab_size = session.vocab_size
        self.max_context = session.max_context
        self.slots = Slots(session.max_sequences)
        self.power = PowerMeter()
        self.worker = Worker()

    @property
    def session(self) -> "_core.Session":
        """The open session. Raises ClosedError after `close`."""
        session = self._session
        if session is None:
            raise ClosedError(f"{self._path}: this LLM is closed")
        return session

    def check_process(self) -> None:
        """Raise ForkError in a fork of the process that opened the pack."""
        self._opened_in.check()

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or this is a fork of the process that opened the pack."""
        return self._session is None or self._opened_in.forked

    def new_sequence(self) -> Sequence:
        """Open a sequence in a free slot. Raises AdapmoeError if there is none, ClosedError."""
        return self.open_in(self.slots.take())

    def open_in(self, slot: Slot) -> Sequence:
        """Open a sequence in `slot`, which is given back if that fails."""
        try:
            return Sequence(self.session.new_sequence(), slot, self.vocab_size)
        except BaseException:
            slot.give_back()
            raise

    def step(self, items: ItemSequence[StepItem]) -> list[NDArray[np.float32] | None]:
        """Append tokens to several sequences in one step; see `LLM.step`."""
        return step(self.session, items)

    def decode_batch(self, items: ItemSequence[tuple[Sequence, int]]) -> NDArray[np.float32]:
        """Append one token to each of several sequences in one step; see `LLM.decode_batch`."""
        return decode_batch(self.session, items)

    def submit(
        self,
        prompts: ItemSequence[NDArray[np.int32]],
        params: SamplingParams,
        tokenizer: Tokenizer,
        continued: Sequence | None = None,
        *,
        answers: bool = False,
    ) -> "Batch":
        """Prepare prompts to run. Whatever can be refused is refused here.

        Args:
            prompts: int32 `[n]` each, n >= 1, ids inside the vocabulary.
            params: for all of them.
            tokenizer: turns tokens into text.
            continued: a sequence that already holds the beginning of the only prompt; it stays
                open.
            answers: the texts are answers in a chat, not continuations of the prompts.

        Raises:
            ContextOverflowError: a prompt and its answer do not fit into the context.
            ValueError: `params` name a token that is not in the vocabulary.
        """
        params.check_vocabulary(self.vocab_size)
        requests = [
            Request(
                index,
                prompt,
                params,
                token_limit(len(prompt), params.max_tokens, self.max_context),
                tokenizer,
                answers=answers,
            )
            for index, prompt in enumerate(prompts)
        ]
        return Batch(self, requests, continued)

    def prefill(self, request: Request, sequence: Sequence) -> None:
        """Compute the next part of a prompt; the last part also gives the first token.

        Only one part, so that others get their turn and a cancelled prompt ends soon.
        """
        part = request.prompt[sequence.length :][: self._prefill_chunk]
        with self.power.span() as span:
            logits = sequence.prefill(part)
        request.stats.add_prefill(sequence.last_stats, len(part), span.seconds, span.joules)
        if sequence.length == len(request.prompt):
            request.advance(logits)

    def decode(self, active: ItemSequence[tuple[Request, Sequence]]) -> None:
        """Compute one token for each of several requests, in one step."""
        with self.power.span() as span:
            rows = self.decode_batch([(seq, request.token_ids[-1]) for request, seq in active])
            for (request, _), logits in zip(active, rows, strict=True):
                request.advance(logits)
        for request, sequence in active:
            request.stats.add_decode(sequence.last_stats, span.seconds, span.joules)

    def close(self) -> None:
        """Close all sequences and the session once the running step ends. Twice is harmless.

        Does nothing in a fork of the process that opened the pack.
        """
        if self._opened_in.forked:
            return
        session, self._session = self._session, None
        if session is not None:
            for sequence in self.slots.close():
                sequence.close()
            session.close()
        self.worker.close()


class Batch:
    """The prompts of one call, run one step at a time, several sequences decoded together.

    While `needs_slot`, pass a slot to `begin`; until `finished`, call `step`. New chunks are in
    `ready`.
    """

    def __init__(
        self, scheduler: Scheduler, requests: list[Request], continued: Sequence | None
    ) -> None:
        """Use `Scheduler.submit`."""
        self.scheduler = scheduler
        self.ready: deque[GenerationChunk] = deque()
        self._continued = continued
        self._all = requests
        self._waiting = deque(requests)
        self._active: dict[int, tuple[Request, Sequence]] = {}
        if continued is not None:
            self._activate(continued)

    @property
    def finished(self) -> bool:
        """No step is left."""
        return not self._waiting and not self._active

    @property
    def needs_slot(self) -> bool:
        """The next prompt cannot begin without a slot."""
        return bool(self._waiting) and not self._active

    def begin(self, slot: Slot) -> None:
        """Let the next prompt begin in `slot`."""
        self._activate(self.scheduler.open_in(slot))

    def _activate(self, sequence: Sequence) -> None:
        request = self._waiting.popleft()
        request.throttle_counts = self.scheduler.power.throttle_counts()
        self._active[request.index] = (request, sequence)

    def step(self, owner: Hashable) -> None:
        """Prefill the next part of a prompt if there is one, otherwise decode all sequences.

        `owner`: the thread or task that holds the slots which this step may take.
        """
        self.scheduler.check_process()  # before the power meter takes locks
        if self._waiting and (slot := self.scheduler.slots.try_take(owner)):
            self.begin(slot)
        active = list(self._active.values())
        prefilling = [item for item in active if not item[0].token_ids]
        if prefilling:
            active = prefilling[:1]
            self.scheduler.prefill(*active[0])
        else:
            self.scheduler.decode(active)
        for request, sequence in active:
            self._emit(request, sequence)

    def _emit(self, request: Request, sequence: Sequence) -> None:
        chunk = request.take_chunk()
        if chunk is not None:
            self.ready.append(chunk)
        if request.finish_reason:
            throttled = self.scheduler.power.throttled_since(request.throttle_counts)
            request.stats.throttled = throttled
            del self._active[request.index]
            self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        if sequence is not self._continued:
            sequence.close()

    @property
    def results(self) -> list[GenerationResult]:
        """What every prompt has generated so far, in order."""
        return [request.result() for request in self._all]

    def close(self) -> None:
        """Give all slots back; `results` keeps what was generated."""
        self._waiting.clear()
        while self._active:
            _, (_, sequence) = self._active.popitem()
            self._leave(sequence)
