# SPDX-License-Identifier: Apache-2.0
"""Turns after the first compute only what is new, and answer as if all had been computed."""

from dataclasses import replace

import pytest

from adapmoe import ChatTemplateError, ContextOverflowError, SamplingParams
from adapmoe.conversation import Conversation

PARAMS = SamplingParams(max_tokens=6, temperature=1.0, seed=5)
QUESTIONS = ["Hello", "And now?", "Good. é€😀"]


def answer(conversation, text, params=PARAMS):
    return "".join(chunk.text for chunk in conversation.ask(text, params))


def test_every_answer_is_that_of_chat(open_llm):
    """One token each, which the tokenizer gives back; see test_conversation_reuse for longer."""
    llm, other = open_llm(), open_llm()
    words = llm.tokenizer.encode(" of the to")[1:]
    with Conversation(llm, system="Be brief.") as conversation:
        for question in QUESTIONS:
            messages = [*conversation.messages, {"role": "user", "content": question}]
            params = replace(PARAMS, max_tokens=1, logit_bias=dict.fromkeys(words, 50.0))
            expected = other.chat(messages, params)
            assert answer(conversation, question, params) == expected.text
            assert conversation.last.token_ids == expected.token_ids
            assert conversation.messages == [
                *messages,
                {"role": "assistant", "content": expected.text},
            ]
        assert (
            answer(conversation, "Bye")
            == other.chat(
                [*conversation.messages[:-2], {"role": "user", "content": "Bye"}], PARAMS
            ).text
        )
    assert llm.free_sequences == 1


def test_only_new_tokens_are_computed(open_llm):
    llm = open_llm()
    # The template writes a space before answers, so the model must have written one as well.
    words = [i for t, i in llm.tokenizer._backend.get_vocab().items() if t.startswith("▁")]
    params = replace(PARAMS, logit_bias=dict.fromkeys(words, 50.0))
    with Conversation(llm) as conversation:
        answer(conversation, QUESTIONS[0], params)
        before, cached = llm.stats.tokens, conversation.cached_tokens
        answer(conversation, QUESTIONS[1])
        last = conversation.last
        assert last.stats.prefill_tokens == last.prompt_tokens - cached
        assert llm.stats.tokens - before == last.stats.prefill_tokens + PARAMS.max_tokens - 1


def test_a_repeated_question_after_reset_computes_one_token(open_llm):
    llm = open_llm()
    with Conversation(llm, system="Be brief.") as conversation:
        expected = answer(conversation, "Hello")
        conversation.reset()
        assert conversation.messages == [{"role": "system", "content": "Be brief."}]
        assert answer(conversation, "Hello") == expected
        assert conversation.last.stats.prefill_tokens == 1
        conversation.reset()
        conversation.system = None
        assert (
            answer(conversation, "Hello")
            == open_llm().chat([{"role": "user", "content": "Hello"}], PARAMS).text
        )


def test_an_answer_left_early_stays_as_far_as_it_came(open_llm):
    llm = open_llm()
    with Conversation(llm) as conversation:
        chunks = conversation.ask("Hello", SamplingParams(max_tokens=50))
        shown = next(chunks).text + next(chunks).text
        chunks.close()
        assert conversation.messages[-1] == {"role": "assistant", "content": shown}
        messages = [*conversation.messages, {"role": "user", "content": "Go on"}]
        assert answer(conversation, "Go on") == open_llm().chat(messages, PARAMS).text


def test_a_question_without_any_answer_is_withdrawn(open_llm):
    llm = open_llm({"interrupt_after": 2}, prefill_chunk=2)
    with Conversation(llm) as conversation:
        with pytest.raises(KeyboardInterrupt):
            answer(conversation, "Hello there, how are you?")
        assert conversation.messages == []
        assert conversation.cached_tokens == 4
        llm._session.interrupt_after = None
        expected = open_llm().chat([{"role": "user", "content": "Hello there"}], PARAMS).text
        assert answer(conversation, "Hello there") == expected


def test_a_full_context_is_said_before_any_work(open_llm):
    llm = open_llm(max_context=48)
    long = SamplingParams(max_tokens=100, ignore_eos=True)
    with Conversation(llm) as conversation:
        answer(conversation, "Hello", PARAMS)
        assert not conversation.context_full
        answer(conversation, "Hello", long)
        assert conversation.context_full
        before, messages = llm.stats.tokens, conversation.messages
        with pytest.raises(ContextOverflowError, match=r"max_context is 48.*/reset"):
            answer(conversation, "Hello again and again", PARAMS)
        assert (llm.stats.tokens, conversation.messages) == (before, messages)
        conversation.reset()
        assert answer(conversation, "Hello", PARAMS)


def test_the_template_is_looked_up_when_the_conversation_begins(open_llm):
    llm = open_llm()
    with pytest.raises(ChatTemplateError, match="'other'"):
        Conversation(llm, chat_template="other")
    assert llm.free_sequences == 1
    with Conversation(llm, chat_template="{{ messages[-1].content }}") as conversation:
        answer(conversation, "Hello")
        assert conversation.last.prompt_tokens == len(llm.tokenizer.encode("Hello", add_bos=False))
