# SPDX-License-Identifier: Apache-2.0
"""Runs every step of an open pack: which prompts run, in which slots, and what they cost.

Streams drive it: they decide in which thread a step runs and how to wait for a slot.
"""

from collections import deque
from collections.abc import Hashable
from collections.abc import Sequence as ItemSequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import ClosedError
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.request import GenerationChunk, GenerationResult, Request, token_limit
from adapmoe.generation.sequence import Sequence, StepItem, decode_batch, step
from adapmoe.generation.slots import Slot, Slots
from adapmoe.generation.worker import Worker
from adapmoe.machine.power import PowerMeter
from adapmoe.machine.process import OpenedIn
from adapmoe.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from adapmoe import _core


def share_rows(wanted: ItemSequence[int], rows: int) -> list[int]:
    """How many of the rows that each of several prompts still `wanted` the next step gets.

    The shortest get all they want, the others equal parts of what is left; `rows` in all, fewer
    only if fewer are wanted. So a short prompt need not wait for the end of a long one.
    """
    shares = [0] * len(wanted)
    waiting = sorted(range(len(wanted)), key=lambda at: wanted[at])
    for done, at in enumerate(waiting):
        shares[at] = min(wanted[at], -(-rows // (len(waiting) - done)))
        rows -= shares[at]
    return shares


Running = tuple[Request, Sequence]


class Part(NamedTuple):
    """A request's part of a step: append `ids`, int32 `[n]`; `ends`: no token is missing then."""

    request: Request
    sequence: Sequence
    ids: NDArray[np.int32]
    ends: bool


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
        requests = [
            self.new_request(index, prompt, params, tokenizer, answers=answers)
            for index, prompt in enumerate(prompts)
        ]
        return Batch(self, requests, continued)

    def new_request(
        self,
        index: int,
        prompt: NDArray[np.int32],
        params: SamplingParams,
        tokenizer: Tokenizer,
        *,
        answers: bool,
        shown: frozenset[str] = frozenset(),
    ) -> Request:
        """One request, checked as in `submit`; the arguments are those of `Request`."""
        params.check_vocabulary(self.vocab_size)
        limit = token_limit(len(prompt), params.max_tokens, self.max_context)
        return Request(index, prompt, params, limit, tokenizer, answers=answers, shown=shown)

    def advance(
        self, running: ItemSequence[Running], prompt_rows: int | None = None
    ) -> list[tuple[Request, Exception]]:
        """Run one step for all of these: the next token of each that has its prompt computed.

        Prompts share the rows that are left: no more than one pass over the layers takes, so that
        others get their turn and a cancelled prompt ends soon.

        Args:
            running: at least one; their sequences hold the beginnings of their tokens.
            prompt_rows: most rows for prompts, at least 1; None: as many as a pass takes.

        Returns:
            What sampling raised, such as a logits processor's exception: it concerns one request
            alone. What the step itself raises concerns all, and then nothing has changed.
        """
        missing = [request.missing(sequence.length) for request, sequence in running]
        prompts = [at for at, ids in enumerate(missing) if len(ids) > 1]
        rows = max(self._prefill_chunk - (len(running) - len(prompts)), 1)
        rows = rows if prompt_rows is None else min(rows, prompt_rows)
        counts = [1] * len(running)
        for at, share in zip(
            prompts, share_rows([len(missing[at]) for at in prompts], rows), strict=True
        ):
            counts[at] = share
        items = [
            Part(request, sequence, ids[:count], count == len(ids))
            for (request, sequence), ids, count in zip(running, missing, counts, strict=True)
            if count
        ]
        return self._run(items)

    def _run(self, parts: list[Part]) -> list[tuple[Request, Exception]]:
        failed: list[tuple[Request, Exception]] = []
        for request, sequence, _, _ in parts:
            if not request.stats.prefill_tokens:
                request.stats.cached_tokens = sequence.length
        decoding = [bool(part.request.token_ids) and len(part.ids) == 1 for part in parts]
        with self.power.span() as span:
            found = self.step(
                [(part.sequence, part.ids, "last" if part.ends else "none") for part in parts]
            )
            for part, logits in zip(parts, found, strict=True):
                if logits is not None:
                    try:
                        part.request.advance(logits)
                    except Exception as error:
                        failed.append((part.request, error))
        for part, decodes in zip(parts, decoding, strict=True):
            stats, cost = part.request.stats, part.sequence.last_stats
            if decodes:
                stats.add_decode(cost, span.seconds, span.joules)
            else:
                stats.add_prefill(cost, len(part.ids), span.seconds, span.joules)
        return failed

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
    """The prompts of one call, run one step at a time, as many sequences together as have slots.

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
        """Run one step for all prompts that have a slot.

        `owner`: the thread or task that holds the slots which this step may take.
        """
        self.scheduler.check_process()  # before the power meter takes locks
        while self._waiting and (slot := self.scheduler.slots.try_take(owner)):
            self.begin(slot)
        active = list(self._active.values())
        for _, error in self.scheduler.advance(active):
            raise error
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
