# SPDX-License-Identifier: Apache-2.0
"""The Python surface on the real core: threads, asyncio, chats, forks and a changing ceiling."""

import asyncio
import threading

import numpy as np
import pytest

from adapmoe import LLM, BudgetError, ClosedError, SamplingParams
from adapmoe.conversation import Conversation

OPTIONS = {"max_context": 256, "prefill_chunk": 16}
PROMPTS = ["The function returns", "import os", "A test that", "def f(x):", "If the value is"]
PARAMS = SamplingParams(max_tokens=16, temperature=0.9, top_p=0.95, seed=11, ignore_eos=True)


@pytest.fixture
def open_pack(pack_factory):
    """Open the int4 pack with a quarter of its experts resident."""
    opened = []

    def make(**options):
        opened.append(LLM(pack_factory(), **{**OPTIONS, "experts_resident": 0.25, **options}))
        return opened[-1]

    yield make
    for llm in opened:
        llm.close()


def in_threads(functions):
    """Run all at once; return results in order and re-raise the first error."""
    results, errors = [None] * len(functions), []
    barrier = threading.Barrier(len(functions))

    def work(index):
        try:
            barrier.wait()
            results[index] = functions[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
    return results


def greedy_rows(llm, sequence, prompt, steps=10):
    """Logits of a greedy continuation, [steps + 1, vocab_size]."""
    rows = [sequence.prefill(llm.tokenizer.encode(prompt))]
    for _ in range(steps):
        rows.append(sequence.decode(int(rows[-1].argmax())))
    return np.stack(rows)


def test_two_threads_with_their_own_sequences_get_what_each_gets_alone(open_pack):
    llm = open_pack(max_sequences=2)
    with llm.new_sequence() as sequence:
        alone = []
        for prompt in PROMPTS[:2]:
            sequence.reset()
            alone.append(greedy_rows(llm, sequence, prompt))
    for _ in range(4):

        def work(prompt):
            with llm.new_sequence() as sequence:
                return greedy_rows(llm, sequence, prompt)

        together = in_threads([lambda p=p: work(p) for p in PROMPTS[:2]])
        for mine, expected in zip(together, alone, strict=True):
            assert np.array_equal(mine, expected)
    assert llm.free_sequences == 2


@pytest.mark.parametrize("max_sequences", [1, 3])
def test_generations_of_many_threads_get_what_each_gets_alone(open_pack, max_sequences):
    llm = open_pack(max_sequences=max_sequences)
    expected = [llm.generate(prompt, PARAMS).token_ids for prompt in PROMPTS]
    for _ in range(3):
        found = in_threads([lambda p=p: llm.generate(p, PARAMS).token_ids for p in PROMPTS])
        assert found == expected
    assert llm.free_sequences == max_sequences


def test_the_ceiling_can_change_while_threads_generate(open_pack):
    llm = open_pack(max_sequences=2)
    expected = llm.generate(PROMPTS[0], PARAMS).token_ids
    split = llm.memory_split
    sizes = [split.floor_bytes, split.floor_bytes + 3 * split.tile_bytes, split.memory_bytes]

    def resize():
        return [llm.set_memory(size).memory_bytes for size in sizes * 3]

    generate = lambda: llm.generate(PROMPTS[0], PARAMS).token_ids  # noqa: E731
    first, second, resized = in_threads([generate, generate, resize])
    assert first == second == expected
    assert resized == sizes * 3
    with pytest.raises(BudgetError, match="floor"):
        llm.set_memory(2**20)
    assert llm.memory_split.memory_bytes == sizes[-1]
    assert generate() == expected


def until_closed(step):
    """Call `step` until the model or sequence is closed by another thread."""
    try:
        while True:
            step()
    except ClosedError:
        return


def test_closing_while_threads_generate_is_a_typed_error_there(open_pack):
    long = SamplingParams(max_tokens=240, ignore_eos=True)
    for _ in range(5):
        llm = open_pack(max_sequences=3)
        sequence = llm.new_sequence()
        begun = threading.Barrier(4)

        def generate(llm=llm, begun=begun):
            stream = llm.generate([1], long, stream=True)
            next(stream)
            begun.wait()
            until_closed(lambda: list(stream) or llm.generate([1], long))

        def decode(sequence=sequence, begun=begun):
            begun.wait()
            until_closed(lambda: (sequence.decode(5), sequence.truncate(0)))

        def close(llm=llm, begun=begun):
            begun.wait()
            llm.close()

        in_threads([generate, decode, decode, close])


def test_closing_a_sequence_that_another_thread_uses(open_pack):
    llm = open_pack(max_sequences=2)
    for _ in range(20):
        sequence = llm.new_sequence()

        def decode(sequence=sequence):
            until_closed(lambda: (sequence.decode(5), sequence.reset()))

        in_threads([decode, sequence.close])
    assert llm.free_sequences == 2


def test_asynchronous_generations_take_turns_and_can_be_cancelled(open_pack):
    llm = open_pack(max_sequences=2)
    expected = [llm.generate(prompt, PARAMS).text for prompt in PROMPTS]
    order = []

    async def one(prompt):
        parts = []
        async for chunk in llm.generate_async(prompt, PARAMS):
            order.append(prompt)
            parts.append(chunk.text)
        return "".join(parts)

    async def main():
        tasks = [asyncio.create_task(one(prompt)) for prompt in PROMPTS]
        extra = asyncio.create_task(one(PROMPTS[0]))
        await asyncio.sleep(0.01)
        extra.cancel()
        texts = await asyncio.gather(*tasks)
        with pytest.raises(asyncio.CancelledError):
            await extra
        return texts

    assert asyncio.run(main()) == expected
    assert order[: len(order) // 3].count(PROMPTS[1]) > 0
    assert llm.free_sequences == 2


def test_a_fork_and_a_truncation_equal_a_fresh_prefill(open_pack):
    llm = open_pack(max_sequences=3)
    ids = llm.tokenizer.encode("The function returns a list of the values that are")
    with llm.new_sequence() as first, llm.new_sequence() as fresh:
        first.prefill(ids[:6])
        with first.fork() as second:
            first.prefill(ids[::-1])
            every = second.prefill(ids[6:], all_logits=True)
        first.truncate(6)
        assert np.array_equal(first.prefill(ids[6:], all_logits=True), every)
        assert np.array_equal(fresh.prefill(ids, all_logits=True)[6:], every)


def test_a_conversation_computes_only_what_is_new_and_answers_as_if_all_were(open_pack):
    llm = open_pack(max_sequences=2)
    as_chat = 0
    with Conversation(llm, system="Answer.") as conversation:
        for question in ("What is a list?", "And a set?", "Thanks"):
            messages = [*conversation.messages, {"role": "user", "content": question}]
            before = conversation.cached_tokens
            list(conversation.ask(question, PARAMS))
            last = conversation.last
            assert last.stats.prefill_tokens == last.prompt_tokens - before
            # These may be other tokens than those of the rendered text: the model's own.
            prompt = conversation._cached[: last.prompt_tokens]
            assert last.token_ids == llm.generate(prompt, PARAMS).token_ids
            if prompt.tolist() == llm.chat_prompt(messages):
                as_chat += 1
                assert last.text == llm.chat(messages, PARAMS).text
    assert as_chat


def test_logprobs_and_penalties_on_real_logits(open_pack):
    llm = open_pack()
    params = SamplingParams(max_tokens=12, logprobs=3, repetition_penalty=1.3, ignore_eos=True)
    result = llm.generate(PROMPTS[0], params)
    assert [token.token_id for token in result.logprobs] == result.token_ids
    ids = llm.tokenizer.encode(PROMPTS[0])
    with llm.new_sequence() as sequence:
        rows = sequence.prefill([*ids, *result.token_ids], all_logits=True)[len(ids) - 1 : -1]
    for row, token in zip(rows.astype(np.float64), result.logprobs, strict=True):
        probs = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        np.testing.assert_allclose(np.exp(token.logprob), probs[token.token_id], rtol=1e-9)
        assert token.top[0][0] == row.argmax()
