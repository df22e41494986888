# SPDX-License-Identifier: Apache-2.0
"""What fails while requests run: the disk, memory, a processor, the engine itself."""

import asyncio
import functools
import threading

import pytest

from adapmoe import ClosedError, NonFiniteError, ReadError
from support.core.engine_run import (
    alone,
    answer_to,
    ask,
    fail_for,
    ids,
    metric,
    running,
    tokens_of,
    until,
)


@pytest.fixture
def serving(open_llm):
    """A function to a context with a model and an engine."""
    return functools.partial(running, open_llm)


def test_a_failing_request_fails_alone(open_llm, serving):
    async def run(engine):
        good, bad = answer_to(engine, ask(ids(5), 20)), answer_to(engine, ask(ids(99), 20))
        with pytest.raises(ReadError, match="cannot be read"):
            await tokens_of(bad)
        return await tokens_of(good)

    with serving() as (llm, engine):
        fail_for(llm, 99, ReadError("experts.safetensors: cannot be read"))
        assert asyncio.run(run(engine)) == [alone(open_llm, ids(5), 20)]


def test_when_all_fail_the_engine_lives_and_recovers(open_llm, serving):
    async def run(llm, engine):
        mend = fail_for(llm, 1, ReadError("experts.safetensors: cannot be read"))
        for answer in [answer_to(engine, ask(ids(at))) for at in (5, 6, 7)]:
            with pytest.raises(ReadError, match="cannot be read"):
                await tokens_of(answer)
        mend()
        return await tokens_of(answer_to(engine, ask(ids(5))))

    with serving() as (llm, engine):
        assert asyncio.run(run(llm, engine)) == [alone(open_llm, ids(5))]


def test_a_step_that_fails_for_a_request_with_several_choices(open_llm, serving):
    async def run(llm, engine):
        mend = fail_for(llm, 99, ReadError("experts.safetensors: cannot be read"))
        good = answer_to(engine, ask(ids(5), 20))
        bad = answer_to(engine, ask(ids(99), 20, choices=2))
        with pytest.raises(ReadError):
            await tokens_of(bad)
        mend()
        return await tokens_of(good), await tokens_of(answer_to(engine, ask(ids(99), 5, 2)))

    with serving(max_sequences=3) as (llm, engine):
        expected = alone(open_llm, ids(99))
        assert asyncio.run(run(llm, engine)) == (
            [alone(open_llm, ids(5), 20)],
            [expected, expected],
        )


def test_several_prompts_of_one_request_are_one_answer(open_llm, serving):
    prompts = [ids(*range(5, 30)), ids(7), ids(*range(5, 40))]

    async def run(engine):
        answer = engine.answer([ask(prompt, choices=2) for prompt in prompts])
        indices = {chunk.index async for chunk in answer}
        assert indices == set(range(6))
        return [result.token_ids for result in answer.results], answer.prompt_tokens

    with serving(max_sequences=4) as (_, engine):
        expected = [alone(open_llm, prompt) for prompt in prompts for _ in range(2)]
        assert asyncio.run(run(engine)) == (expected, sum(map(len, prompts)))


def test_a_fault_of_ours_ends_requests_and_not_the_engine(open_llm, serving, caplog):
    async def run(engine):
        begin = engine._prefixes.begin

        def broken(*_):
            raise RuntimeError("a bug")

        engine._prefixes.begin = broken
        for _ in range(2):
            with pytest.raises(RuntimeError, match="a bug"):
                await tokens_of(answer_to(engine, ask(ids(5))))
        engine._prefixes.begin = begin
        return await tokens_of(answer_to(engine, ask(ids(5))))

    with serving() as (_, engine):
        assert asyncio.run(run(engine)) == [alone(open_llm, ids(5))]
        assert engine.alive
    assert "the engine failed" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_requests_that_come_while_the_engine_dies_are_told_so(serving):
    async def run(llm, engine):
        arrived, late = threading.Event(), threading.Event()

        def fatal(items):
            arrived.set()
            late.wait(10)
            raise SystemExit  # as the core does while Python exits

        llm._session.step = fatal
        first = answer_to(engine, ask(ids(5)))
        await asyncio.to_thread(arrived.wait, 10)
        second = answer_to(engine, ask(ids(6)))
        late.set()
        for answer in (first, second):
            with pytest.raises(ClosedError, match="shutting down"):
                await asyncio.wait_for(tokens_of(answer), 10)
        await until(lambda: not engine.alive)

    with serving() as (llm, engine):
        asyncio.run(run(llm, engine))


def test_what_a_failed_request_computed_is_not_taken_over(serving):
    async def run(llm, engine):
        prompt = ids(*range(5, 45))
        step, count = llm._session.step, 0

        def failing(items):
            nonlocal count
            count += 1
            if count in (3, 4):  # the last part of the prompt, and once more
                raise NonFiniteError("NaN in the logits")
            return step(items)

        llm._session.step = failing
        with pytest.raises(NonFiniteError):
            await tokens_of(answer_to(engine, ask(prompt)))
        again = answer_to(engine, ask(prompt))
        await tokens_of(again)
        return again.cached_tokens

    with serving() as (llm, engine):
        assert asyncio.run(run(llm, engine)) == 0


def test_memory_that_is_short_for_each_alone_fails_nobody_else(open_llm, serving):
    """One request fails a step, and while all are tried alone, memory is short once."""

    async def run(llm, engine):
        good = answer_to(engine, ask(ids(5), 20))
        await anext(good)
        fail_for(llm, 99, ReadError("cannot be read"))
        step, scarce_steps = llm._session.step, 0

        def scarce(items):
            nonlocal scarce_steps
            if scarce_steps == 1:  # the first of those alone
                scarce_steps = 2
                raise MemoryError("no memory")
            try:
                return step(items)
            except ReadError:
                scarce_steps = scarce_steps or len(items) - 1
                raise

        llm._session.step = scarce
        with pytest.raises(ReadError):
            await tokens_of(answer_to(engine, ask(ids(99), 20)))
        await tokens_of(good)
        return good.results[0].token_ids

    with serving() as (llm, engine):
        assert asyncio.run(run(llm, engine)) == alone(open_llm, ids(5), 20)


def test_what_a_logits_processor_raises_fails_its_request_alone(open_llm, serving):
    def broken(token_ids, logits):
        raise RuntimeError("no such grammar")

    async def run(engine):
        good = answer_to(engine, ask(ids(5)))
        bad = answer_to(engine, ask(ids(6), logits_processor=broken))
        with pytest.raises(RuntimeError, match="no such grammar"):
            await tokens_of(bad)
        return await tokens_of(good)

    with serving() as (_, engine):
        assert asyncio.run(run(engine)) == [alone(open_llm, ids(5))]


def test_when_memory_runs_out_the_youngest_waits_and_no_answer_changes(open_llm, serving):
    prompts = [ids(5, at) for at in range(4)]
    expected = [[alone(open_llm, prompt, 12, temperature=1, seed=1)] for prompt in prompts]

    async def run(llm, engine):
        step = llm._session.step

        def scarce(items):
            if len(items) > 2:
                raise MemoryError("no memory for so many")
            return step(items)

        llm._session.step = scarce
        answers = [answer_to(engine, ask(p, 12, temperature=1, seed=1)) for p in prompts]
        return await asyncio.gather(*map(tokens_of, answers))

    with serving(max_sequences=4) as (llm, engine):
        assert asyncio.run(run(llm, engine)) == expected
        assert metric(engine._metrics, "adapmoe_preemptions_total") >= 2


def test_a_lone_request_that_has_no_memory_fails(serving):
    async def run(llm, engine):
        def none(items):
            raise MemoryError("nothing left")

        llm._session.step = none
        with pytest.raises(MemoryError, match="nothing left"):
            await tokens_of(answer_to(engine, ask(ids(5))))

    with serving() as (llm, engine):
        asyncio.run(run(llm, engine))
