# SPDX-License-Identifier: Apache-2.0
"""Runs the requests of all clients in one thread: which begin, what each step does, who is told.

A step takes every running answer one token further, and prompts by as many rows as `Pace` allows.
Requests come and go between steps.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as ItemSequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from adapmoe.errors import AdapmoeError, BudgetError, ClosedError
from adapmoe.generation.prefixes import Held, Prefixes
from adapmoe.generation.request import Request
from adapmoe.generation.sequence import Sequence
from adapmoe.llm import LLM
from adapmoe.serve.delivery import Answer, News, deliver
from adapmoe.serve.metrics import Metrics
from adapmoe.serve.pace import Pace
from adapmoe.serve.service import Ask, QueueFullError, RequestTimeoutError

_log = logging.getLogger("adapmoe.serve")


@dataclass(eq=False)
class Job:
    """One choice of a request on its way through the engine.

    Attributes:
        after: the choice whose prompt this one takes over, once that is computed.
        asked: when it was, by time.perf_counter().
        sequence: None while the job waits.
    """

    request: Request
    answer: Answer
    key: str
    asked: float
    after: "Job | None" = None
    sequence: Sequence | None = None
    began: float = 0.0  # when it got its slot
    told: int = 0  # tokens that metrics know of
    last_token: float = 0.0
    ended: bool = False

    @property
    def held(self) -> Held:
        """What its sequence holds, for other requests to begin with."""
        assert self.sequence is not None
        tokens = np.array(self.request.token_ids, np.int32)
        ids = np.concatenate([self.request.prompt, tokens])[: self.sequence.length]
        return Held(self.key, ids, self.sequence, running=True)

    @property
    def may_begin(self) -> bool:
        """Whether the prompt that it takes over has been computed, if it takes over one."""
        return self.after is None or self.after.ended or bool(self.after.request.token_ids)


class State(Enum):
    """What the engine does with requests."""

    RUNNING = "running"
    DRAINING = "draining"  # those it has; no new ones
    STOPPED = "stopped"


class Engine:
    """Owns the steps of an open model while it serves. `answer` and `cancel` from an event loop."""

    def __init__(
        self, llm: LLM, metrics: Metrics, *, max_queue: int, timeout_s: float, gap_s: float
    ) -> None:
        """Start the thread.

        Args:
            llm: the open model; its slots are the engine's as long as that runs.
            metrics: told what happens.
            max_queue: most choices that may wait for a slot.
            timeout_s: most seconds that a request may take, waiting included.
            gap_s: wanted longest time between two tokens of an answer, see `Pace`.
        """
        self._llm = llm
        self._metrics = metrics
        self._max_queue = max_queue
        self._timeout_s = timeout_s
        self._pace = Pace(gap_s)
        self._prefixes = Prefixes(llm.scheduler)
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []  # the oldest first
        self._news: list[tuple[Answer, News]] = []  # to be delivered
        self._most_running = llm.max_sequences  # fewer after memory ran out, until one has ended
        self._state = State.RUNNING
        self._inbox: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._in_flight = 0  # jobs that have not ended; guarded by _changed
        self._usual_s = 1.0  # that a choice takes once it has a slot
        self._last_step: float | None = None  # when it ended; None after a pause
        self._turns = 0
        self._thread = threading.Thread(target=self._run, name="adapmoe-engine", daemon=True)
        self._thread.start()

    def answer(self, asks: ItemSequence[Ask]) -> Answer:
        """Queue a request; see `Service.answer`."""
        self._check_room(sum(len(ask.params) for ask in asks))
        scheduler, tokenizer = self._llm.scheduler, self._llm.tokenizer
        choices: list[tuple[Ask, Request]] = []
        for ask in asks:
            for params in ask.params:
                new = scheduler.new_request(
                    len(choices),
                    ask.prompt,
                    params,
                    tokenizer,
                    answers=ask.answers,
                    shown=ask.shown_special,
                )
                choices.append((ask, new))
        firsts = {id(ask): request for ask, request in reversed(choices)}
        answer = Answer([new for _, new in choices], list(firsts.values()), self.cancel)
        now = time.perf_counter()
        jobs: list[Job] = []
        leaders: dict[int, Job] = {}
        for ask, request in choices:
            job = Job(request, answer, ask.key, now, after=leaders.get(id(ask)))
            leaders.setdefault(id(ask), job)
            jobs.append(job)
        with self._changed:
            if self._state is not State.RUNNING:
                raise _closing()
            self._in_flight += len(jobs)
            self._inbox.append(lambda: self._waiting.extend(jobs))
            self._changed.notify()
        return answer

    def _check_room(self, choices: int) -> None:
        """Raise QueueFullError if so many more would be too many, unless there are no others."""
        full = self._llm.max_sequences + self._max_queue
        if self._in_flight and self._in_flight + choices > full:
            self._metrics.refused()
            turns = self._in_flight / self._llm.max_sequences
            raise QueueFullError(
                f"{self._in_flight} answers are running or waiting already, and {full} may; try "
                "again later",
                retry_after=int(min(max(turns * self._usual_s, 1), 60)),
            )

    def cancel(self, answer: Answer) -> None:
        """End a request that nobody waits for any more, after the running step at the latest."""

        def drop() -> None:
            for job in self._jobs():
                if job.answer is answer:
                    self._metrics.failed("cancelled")
                    self._end(job)

        with self._changed:
            self._inbox.append(drop)
            self._changed.notify()

    @property
    def pulse(self) -> tuple[int, int] | None:
        """Changes whenever a request gets on; None while there are none."""
        return (self._turns, self._llm.progress) if self._in_flight else None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def takes_requests(self) -> bool:
        """Whether the thread runs and was not told to end."""
        return self.alive and self._state is State.RUNNING

    def begin_drain(self) -> None:
        """Take no new requests; the thread ends with the last of those there are."""
        with self._changed:
            if self._state is State.RUNNING:
                self._state = State.DRAINING
            self._changed.notify()

    def stop(self) -> None:
        """End all requests with ClosedError and the thread, once the running step has ended."""
        with self._changed:
            self._state = State.STOPPED
            self._changed.notify()
        self._thread.join()

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        try:
            while self._wait():
                try:
                    self._turn()
                except Exception as error:  # a fault of ours: whom it met fail, the server lives
                    _log.exception("the engine failed; all requests end")
                    for job in self._jobs():
                        self._fail(job, error)
                self._deliver()
        finally:
            with self._changed:
                self._state = State.STOPPED
                actions, self._inbox = self._inbox, []
            for action in actions:
                action()
            for job in self._jobs():
                self._fail(job, _closing())
            self._deliver()
            self._prefixes.clear()

    def _jobs(self) -> list[Job]:
        return [*self._waiting, *self._running]

    def _wait(self) -> bool:
        """Wait until there is something to do. Whether to go on."""
        with self._changed:
            while not self._inbox and not self._running:
                if self._state is State.STOPPED or (
                    self._state is State.DRAINING and not self._waiting
                ):
                    return False
                self._last_step = None
                # A job that waits although none runs waits for a slot that somebody else holds.
                if not self._changed.wait(0.05 if self._waiting else None):
                    break
            return self._state is not State.STOPPED

    def _turn(self) -> None:
        self._turns += 1
        with self._changed:
            actions, self._inbox = self._inbox, []
        for action in actions:
            action()
        self._expire()
        self._begin()
        if self._running:
            self._step()
        self._metrics.state(len(self._waiting), len(self._running), len(self._prefixes))

    def _expire(self) -> None:
        oldest = time.perf_counter() - self._timeout_s
        for job in self._jobs():
            if job.asked < oldest:
                late = RequestTimeoutError(f"the request took longer than {self._timeout_s:g} s")
                self._fail(job, late)

    def _begin(self) -> None:
        """Give slots to waiting jobs in their order."""
        for job in list(self._waiting):
            if len(self._running) >= self._most_running or not self._prefixes.has_room:
                return
            if job.ended or not job.may_begin:
                continue
            try:
                sequence = self._prefixes.begin(
                    job.key, job.request.prompt, [each.held for each in self._running]
                )
            except (AdapmoeError, MemoryError) as error:
                self._fail(job, error)
                continue
            if sequence is None:
                return
            self._waiting.remove(job)
            job.sequence = sequence
            job.began = time.perf_counter()
            self._running.append(job)
            job.request.throttle_counts = self._llm.power.throttle_counts()

    def _step(self) -> None:
        """One step for all that run. If it fails: who it failed for, and the others go on."""
        try:
            self._advance(self._running)
        except (MemoryError, BudgetError) as error:
            self._give_way(error)
        except AdapmoeError:
            self._last_step = None
            for job in list(self._running):
                self._advance_alone(job)
        self._note_tokens()

    def _advance_alone(self, job: Job) -> None:
        if job.sequence is None:  # it ended with another choice of its request, or gave way
            return
        try:
            self._advance([job])
        except (MemoryError, BudgetError) as error:
            self._give_way(error)
        except AdapmoeError as error:
            self._fail(job, error)

    def _advance(self, jobs: list[Job]) -> None:
        active = [(job.request, job.sequence) for job in jobs if job.sequence is not None]
        missing = [len(request.missing(sequence.length)) for request, sequence in active]
        prompts = [count for count in missing if count > 1]
        most = min(sum(prompts), self._llm.settings.prefill_chunk)
        rows = self._pace.rows(most) if prompts and len(prompts) < len(active) else most
        begin = time.perf_counter()
        with self._llm.power.span() as span:
            failed = self._llm.scheduler.advance(active, max(rows, 1))
        if prompts:
            self._pace.observe(rows, time.perf_counter() - begin)
        core_s = active[0][1].last_stats.wall_s
        now = time.perf_counter()
        if self._last_step is not None:
            self._metrics.own_time(now - self._last_step - core_s)
        self._last_step = now
        self._metrics.step(core_s, span)
        for request, error in failed:
            for job in jobs:
                if job.request is request:
                    self._fail(job, error)

    def _give_way(self, error: Exception) -> None:
        """Memory ran out: the youngest waits and is computed again later, with the same tokens."""
        self._last_step = None
        if len(self._running) == 1:
            self._fail(self._running[0], error)
            return
        youngest = self._running.pop()
        assert youngest.sequence is not None
        youngest.sequence.close()
        youngest.sequence = None
        self._waiting.appendleft(youngest)
        self._most_running = len(self._running)
        self._metrics.preempted()

    def _note_tokens(self) -> None:
        """Take what is new, and let go of those that have finished."""
        now = time.perf_counter()
        for job in list(self._running):
            request = job.request
            if len(request.token_ids) > job.told:
                if job.told:
                    self._metrics.next_token(now - job.last_token)
                else:
                    self._metrics.first_token(now - job.asked)
                job.told, job.last_token = len(request.token_ids), now
            if request.finish_reason:
                request.stats.throttled = self._llm.power.throttled_since(request.throttle_counts)
                self._usual_s += 0.1 * (now - job.began - self._usual_s)
                self._metrics.finished(
                    request.finish_reason, now - job.asked, len(request.prompt), request.stats
                )
                self._end(job)
                self._llm.log_notes()
            chunk = request.take_chunk()
            if chunk is not None:
                self._news.append((job.answer, chunk))

    def _deliver(self) -> None:
        if self._news:
            deliver(self._news)
            self._news = []

    def _fail(self, job: Job, error: Exception) -> None:
        """End a request, and tell its client why: its other choices end with this one."""
        if job.ended:
            return
        for each in self._jobs():
            if each.answer is job.answer:
                self._metrics.failed(type(error).__name__)
                self._end(each, keep=False)
        self._news.append((job.answer, error))

    def _end(self, job: Job, *, keep: bool = True) -> None:
        """Let go of a job.

        `keep`: what its sequence holds is kept for prompts that begin like it, if a token came of
        it: only then it is known that all of it is finite.
        """
        if job.ended:
            return
        job.ended = True
        with self._changed:
            self._in_flight -= 1
        if job.sequence is None:
            self._waiting.remove(job)
            return
        held = job.held
        self._most_running = self._llm.max_sequences
        self._running.remove(job)
        job.sequence = None
        if keep and job.request.token_ids:
            self._prefixes.keep(held.key, held.ids, held.sequence)
        else:
            held.sequence.close()


def _closing() -> ClosedError:
    return ClosedError("the server is shutting down")
