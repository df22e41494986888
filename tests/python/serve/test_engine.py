# SPDX-License-Identifier: Apache-2.0
"""Requests that come, go and share prefixes while others run; on a stand-in for the core."""

import asyncio
import functools
import threading
import time

import pytest

from adapmoe import ClosedError, ContextOverflowError
from adapmoe.machine.power import PowerMeter, Span
from adapmoe.machine.procfs import KernelTree
from adapmoe.serve.metrics import Metrics
from adapmoe.serve.service import QueueFullError, RequestTimeoutError
from support.core.engine_run import alone, answer_to, ask, ids, metric, running, tokens_of, until
from support.machine.machines import MACHINES, build


@pytest.fixture
def serving(open_llm):
    """A function to a context with a model and an engine."""
    return functools.partial(running, open_llm)


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_each_request_gets_the_tokens_it_would_get_alone(open_llm, serving, slots):
    prompts = [ids(*range(5, 5 + 7 * n)) for n in range(1, 9)]
    expected = [alone(open_llm, p, 3 + n, temperature=1, seed=n) for n, p in enumerate(prompts)]

    async def all_of(engine):
        answers = [
            answer_to(engine, ask(p, 3 + n, temperature=1, seed=n)) for n, p in enumerate(prompts)
        ]
        return await asyncio.gather(*map(tokens_of, answers))

    with serving(max_sequences=slots) as (llm, engine):
        assert asyncio.run(all_of(engine)) == [[tokens] for tokens in expected]
        assert max(map(len, llm._session.batches)) == min(slots, len(prompts))


def test_a_long_prompt_comes_in_beside_a_running_answer(serving):
    async def both(llm, engine):
        running = answer_to(engine, ask(ids(5), 60))
        await anext(running)
        long = asyncio.create_task(tokens_of(answer_to(engine, ask(ids(*range(5, 405)), 2))))
        await tokens_of(running)
        await long
        return [batch for batch in llm._session.batches if len(batch) == 2]

    with serving(limits={"gap_s": 0.0}, max_context=512) as (llm, engine):
        mixed = asyncio.run(both(llm, engine))
    assert len(mixed) > 20
    assert all(min(batch) == 1 and sum(batch) <= 16 for batch in mixed)


def test_choices_take_over_the_prompt_of_the_first(open_llm, serving):
    prompt = ids(*range(5, 45))
    expected = [alone(open_llm, prompt, temperature=1, seed=3 + at) for at in range(3)]

    async def run(engine):
        return await tokens_of(answer_to(engine, ask(prompt, choices=3, temperature=1, seed=3)))

    with serving(max_sequences=3) as (llm, engine):
        assert asyncio.run(run(engine)) == expected
        rows = sum(map(sum, llm._session.batches))
        assert rows == len(prompt) + 2 + 3 * 4  # computed once, then its last token for the others


def test_a_prompt_that_begins_like_an_earlier_one_is_only_computed_from_there(open_llm, serving):
    first, second = ids(*range(5, 45)), ids(*range(5, 30), 7, 8, 9)

    async def run(llm, engine):
        await tokens_of(answer_to(engine, ask(first, key="a")))
        before = sum(map(sum, llm._session.batches))
        answer = answer_to(engine, ask(second, key="a"))
        tokens = await tokens_of(answer)
        return tokens, answer.cached_tokens, sum(map(sum, llm._session.batches)) - before

    with serving() as (llm, engine):
        tokens, cached, rows = asyncio.run(run(llm, engine))
    assert tokens == [alone(open_llm, second)]
    assert (cached, rows) == (26, 3 + 4)


def test_no_prefix_is_shared_between_keys(serving):
    async def run(engine):
        cached = []
        for key in ("a", "b", "a"):
            answer = answer_to(engine, ask(ids(*range(5, 45)), key=key))
            await tokens_of(answer)
            cached.append(answer.cached_tokens)
        return cached

    with serving() as (_, engine):
        assert asyncio.run(run(engine)) == [0, 0, 40]


def test_a_conversation_continues_where_it_was(serving):
    async def run(engine):
        answer = answer_to(engine, ask(ids(*range(5, 25)), 6))
        [tokens] = await tokens_of(answer)
        more = answer_to(engine, ask(ids(*range(5, 25), *tokens, 8), 2))
        await tokens_of(more)
        return more.cached_tokens

    with serving(max_sequences=1) as (_, engine):
        assert asyncio.run(run(engine)) == 21 + 5  # the last token was never put into the cache


def test_a_full_queue_refuses_and_says_when_to_come_back(serving):
    async def run(engine):
        answers = [answer_to(engine, ask(ids(5), 30)) for _ in range(3)]
        with pytest.raises(QueueFullError, match="try again later") as refused:
            answer_to(engine, ask(ids(5)))
        await asyncio.gather(*map(tokens_of, answers))
        await tokens_of(answer_to(engine, ask(ids(5))))
        return refused.value.retry_after

    with serving({"step_s": 0.002}, {"max_queue": 2}, max_sequences=1) as (_, engine):
        assert 1 <= asyncio.run(run(engine)) <= 60


def test_a_cancelled_request_ends_within_a_step_and_frees_its_slot(serving):
    async def run(llm, engine):
        answer = answer_to(engine, ask(ids(5), 400))
        await anext(answer)
        await answer.aclose()
        await answer.aclose()
        await until(lambda: not engine._running)
        steps = len(llm._session.batches)
        await asyncio.sleep(0.05)
        assert len(llm._session.batches) == steps < 50
        waiting = [answer_to(engine, ask(ids(9, at), 5)) for at in range(3)]
        await waiting[2].aclose()  # before it began
        await asyncio.gather(*map(tokens_of, waiting[:2]))

    with serving({"step_s": 0.01}) as (llm, engine):
        asyncio.run(run(llm, engine))
        assert engine._in_flight == 0


def test_a_request_that_takes_too_long_is_told_so(serving):
    async def run(engine):
        slow = answer_to(engine, ask(ids(5), 400))
        with pytest.raises(RequestTimeoutError, match=r"longer than 0\.2 s"):
            await tokens_of(slow)
        assert 0 < len(slow.results[0].token_ids) < 400

    with serving({"step_s": 0.02}, {"timeout_s": 0.2}) as (_, engine):
        asyncio.run(run(engine))


def test_what_does_not_fit_is_refused_at_once(serving):
    async def run(engine):
        with pytest.raises(ContextOverflowError):
            answer_to(engine, ask(ids(*range(5, 105)), 100))
        with pytest.raises(ValueError, match="outside the vocabulary"):
            answer_to(engine, ask(ids(5), logit_bias={5000: 1.0}))

    with serving(max_context=128) as (_, engine):
        asyncio.run(run(engine))


def test_draining_finishes_what_there_is_and_takes_nothing_new(serving):
    async def run(engine):
        answers = [answer_to(engine, ask(ids(5, at), 20)) for at in range(3)]
        engine.begin_drain()
        assert not engine.takes_requests
        with pytest.raises(ClosedError, match="shutting down"):
            answer_to(engine, ask(ids(5)))
        found = await asyncio.gather(*map(tokens_of, answers))
        assert [len(tokens) for [tokens] in found] == [20, 20, 20]
        await until(lambda: not engine.alive)

    with serving({"step_s": 0.002}) as (_, engine):
        asyncio.run(run(engine))


def test_stopping_ends_what_runs_and_what_waits(serving):
    async def run(engine):
        answers = [answer_to(engine, ask(ids(5, at), 400)) for at in range(3)]
        await anext(answers[0])
        await asyncio.to_thread(engine.stop)
        for answer in answers:
            with pytest.raises(ClosedError, match="shutting down"):
                await tokens_of(answer)

    with serving({"step_s": 0.002}) as (_, engine):
        asyncio.run(run(engine))


def test_memory_may_change_meanwhile(open_llm, serving):
    async def run(llm, engine):
        answer = answer_to(engine, ask(ids(5), 100))
        await anext(answer)
        await asyncio.to_thread(llm.set_memory, "64MiB")
        return await tokens_of(answer)

    with serving() as (llm, engine):
        assert asyncio.run(run(llm, engine)) == [alone(open_llm, ids(5), 100)]


def test_metrics_count_what_happened(serving):
    async def run(engine):
        for _ in range(2):
            await tokens_of(answer_to(engine, ask(ids(*range(5, 25)))))

    with serving() as (llm, engine):
        asyncio.run(run(engine))
        engine.stop()
        found = {
            name: metric(engine._metrics, f"adapmoe_{name}_total")
            for name in ("prompt_tokens", "cached_prompt_tokens", "generated_tokens", "read_bytes")
        }
        assert found == {
            "prompt_tokens": 42,
            "cached_prompt_tokens": 20,
            "generated_tokens": 10,
            "read_bytes": llm.stats.bytes_read,
        }
        assert metric(engine._metrics, "adapmoe_choices_total", outcome="length") == 2
        assert metric(engine._metrics, "adapmoe_time_to_first_token_seconds_count") == 2
        assert metric(engine._metrics, "adapmoe_time_between_tokens_seconds_count") == 8
        assert metric(engine._metrics, "adapmoe_memory_bytes", part="kv") == 2**20
        assert metric(engine._metrics, "adapmoe_choices_running") == 0
        assert metric(engine._metrics, "adapmoe_prefixes_kept") == 1


def test_power_is_told_where_it_is_measured_and_only_there(open_llm, tmp_path):
    llm = open_llm()
    llm.scheduler.power = PowerMeter(KernelTree(tmp_path / "none"))
    assert metric(Metrics(llm), "adapmoe_power_watts") is None
    llm.scheduler.power = PowerMeter(KernelTree(build(tmp_path, MACHINES["orin_jetpack_7_2"]())))
    metrics = Metrics(llm)
    for joules in (4.0, 8.0):  # 0.6 s each: averaged over a second at least
        metrics.step(0.5, Span(0.6, joules))
    assert metric(metrics, "adapmoe_power_watts") == pytest.approx(10)
    assert metric(metrics, "adapmoe_energy_joules_total") == pytest.approx(12)


def test_an_idle_engine_does_not_turn(serving):
    with serving() as (_, engine):
        time.sleep(0.05)
        before = time.thread_time() + time.process_time()
        threading.Event().wait(0.2)
        assert time.thread_time() + time.process_time() - before < 0.1
        assert engine.alive
