# SPDX-License-Identifier: Apache-2.0
import asyncio

import pytest

from adapmoe import AdapmoeError, ClosedError, ContextOverflowError, SamplingParams

PARAMS = SamplingParams(max_tokens=8, temperature=1.0, seed=3)
LONG = SamplingParams(max_tokens=400)


async def text_of(stream):
    return "".join([chunk.text async for chunk in stream])


def test_the_text_is_that_of_generate(open_llm):
    llm = open_llm(max_sequences=2)
    prompts = ["The first", "def f(", "a"]
    expected = llm.generate(prompts, PARAMS)

    async def main():
        stream = llm.generate_async(prompts, PARAMS)
        async for _ in stream:
            pass
        return stream.results, await text_of(llm.generate_async(prompts[0], PARAMS))

    results, text = asyncio.run(main())
    assert [r.token_ids for r in results] == [r.token_ids for r in expected]
    assert text == expected[0].text
    assert llm.free_sequences == 2


def test_a_chat_is_that_of_chat(open_llm):
    llm = open_llm()
    messages = [{"role": "user", "content": "Hello"}]
    expected = llm.chat(messages, PARAMS).text
    assert asyncio.run(text_of(llm.chat_async(messages, PARAMS))) == expected


@pytest.mark.parametrize("max_sequences", [1, 2, 5])
def test_many_at_once_take_turns_or_wait(open_llm, max_sequences):
    llm = open_llm({"step_s": 0.001}, max_sequences=max_sequences)
    prompts = [f"prompt {n}" for n in range(5)]
    expected = [llm.generate(prompt, PARAMS).text for prompt in prompts]
    began = []

    async def one(prompt):
        pieces = []
        async for chunk in llm.generate_async(prompt, PARAMS):
            began.append(prompt)
            pieces.append(chunk.text)
        return "".join(pieces)

    async def main():
        return await asyncio.gather(*map(one, prompts))

    assert asyncio.run(main()) == expected
    assert llm.free_sequences == max_sequences
    first_half = set(began[: 2 * max_sequences])
    assert len(first_half) >= min(max_sequences, 2)  # turns, not one after the other


def test_the_event_loop_stays_free(open_llm):
    llm = open_llm({"step_s": 0.05})
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    async def main():
        ticking = asyncio.create_task(tick())
        await text_of(llm.generate_async([1, 2], SamplingParams(max_tokens=4)))
        ticking.cancel()

    asyncio.run(main())
    assert ticks > 20


def test_a_cancelled_task_gives_its_place_back(open_llm):
    llm = open_llm({"step_s": 0.005})

    async def main():
        task = asyncio.create_task(text_of(llm.generate_async([1, 2], LONG)))
        await asyncio.sleep(0.05)
        steps = llm.stats.tokens
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert llm.free_sequences == 1
        assert llm.stats.tokens <= steps + 2
        return await text_of(llm.generate_async("a", PARAMS))

    assert asyncio.run(main()) == llm.generate("a", PARAMS).text


def test_cancelling_a_task_that_waits_leaves_the_queue(open_llm):
    llm = open_llm({"step_s": 0.005})

    async def main():
        first = asyncio.create_task(text_of(llm.generate_async([1, 2], PARAMS)))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(text_of(llm.generate_async([1, 2], PARAMS)))
        await asyncio.sleep(0.01)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await first
        return await asyncio.wait_for(text_of(llm.generate_async([1, 2], PARAMS)), 10)

    assert asyncio.run(main())
    assert llm.free_sequences == 1


def test_a_long_prompt_is_cancelled_between_its_parts(open_llm):
    llm = open_llm({"step_s": 0.01}, prefill_chunk=2)

    async def main():
        task = asyncio.create_task(text_of(llm.generate_async([1] * 400, PARAMS)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert 0 < llm.stats.tokens < 100
    assert llm.free_sequences == 1


def test_leaving_early_gives_the_place_back(open_llm):
    llm = open_llm()

    async def main():
        async with llm.generate_async([1, 2], LONG) as stream:
            async for chunk in stream:
                assert chunk.text
                break
        assert llm.free_sequences == 1
        assert stream.results[0].finish_reason is None
        assert [c async for c in stream] == []

    asyncio.run(main())


def test_what_can_be_checked_is_checked_at_the_call(open_llm):
    llm = open_llm(max_context=20)
    with pytest.raises(ContextOverflowError):
        llm.generate_async([1] * 20)
    with pytest.raises(ContextOverflowError):
        llm.chat_async([{"role": "user", "content": "word " * 50}])
    with pytest.raises(ContextOverflowError):
        llm.chat([{"role": "user", "content": "word " * 50}], stream=True)
    with pytest.raises(ValueError, match="logit_bias"):
        llm.generate_async([1], SamplingParams(logit_bias={10**6: 1.0}))
    assert llm.stats.tokens == 0


def test_waiting_that_would_block_the_event_loop_is_an_error(open_llm):
    llm = open_llm()

    async def main():
        async with llm.generate_async([1, 2], LONG) as stream:
            await anext(stream)
            with pytest.raises(AdapmoeError, match="in use"):
                llm.generate([1, 2])  # in the thread of the event loop
            with pytest.raises(AdapmoeError, match="in use"):
                await text_of(llm.generate_async([1, 2]))  # in the same task

    asyncio.run(main())


def test_closing_ends_asynchronous_generations(open_llm):
    llm = open_llm({"step_s": 0.002})

    async def main():
        tasks = [asyncio.create_task(text_of(llm.generate_async([1, 2], LONG))) for _ in range(2)]
        await asyncio.sleep(0.02)
        await asyncio.to_thread(llm.close)
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(error) for error in asyncio.run(main())] == [ClosedError] * 2


def test_errors_of_a_step_arrive_and_close(open_llm):
    def script(history):
        if len(history) > 4:
            raise AdapmoeError("the disk failed")

    llm = open_llm({"script": script})
    with pytest.raises(AdapmoeError, match="the disk failed"):
        asyncio.run(text_of(llm.generate_async([1, 2], LONG)))
    assert llm.free_sequences == 1
