# SPDX-License-Identifier: Apache-2.0
"""A turn computes nothing twice, whatever the template and the tokenizer."""

import numpy as np
import pytest

from adapmoe import SamplingParams
from adapmoe.conversation import Conversation
from adapmoe.text.tokenizer import Tokenizer
from support.models.chat_templates import TEMPLATES
from support.models.tokenizer_kinds import KINDS, write_tokenizer

QUESTIONS = ["Hello", " What is the law?\n", "é€😀 漢"]
ANSWER = "Hello there, the law 漢😀 is known."
END = "<|end|>"
FREE = SamplingParams(max_tokens=4, temperature=1.0, seed=3)

PAIRS = [
    pytest.param(template, kind, id=f"{template}-{kind}")
    for template in TEMPLATES
    for kind in KINDS
]
# The first asks for answers with a line end that it does not repeat; in the others the tokenizer
# keeps the first space of an answer, and the template writes one as well.
OTHER_BLANKS = [
    *(("markup", kind) for kind in KINDS),
    ("plain-instruct", "byte-level"),
    ("plain-instruct", "metaspace-never"),
]


def say(ids, **params):
    """Parameters that make the model write these tokens."""
    coming = iter(ids)

    def force(_, logits):
        return np.where(np.arange(len(logits)) == next(coming), 0, -np.inf).astype(np.float32)

    return SamplingParams(**{"max_tokens": len(ids), "logits_processor": force} | params)


def ask(conversation, question, params):
    """Ask; return how many tokens of the prompt did not have to be computed."""
    for _ in conversation.ask(question, params):
        pass
    last = conversation.last
    return last.prompt_tokens - last.stats.prefill_tokens


@pytest.fixture
def open_kind(tmp_path, open_llm):
    def make(template, kind):
        path = tmp_path / kind
        write_tokenizer(path, kind, chat_template=TEMPLATES[template], eos_token=END)
        return open_llm(path=path)

    return make


def words(llm, ids):
    return "".join(llm.tokenizer._backend.decode(ids, skip_special_tokens=False).split())


def answer_tokens(llm, template, *, spelled=False):
    """ANSWER as the tokenizer cuts it after a prompt, or letter by letter."""
    tokenizer = llm.tokenizer
    space = " " if template.endswith("instruct") else ""
    prompt = llm.chat_templates.render([{"role": "user", "content": "Hello"}])
    before = tokenizer.encode(prompt, add_bos=False)
    ids = tokenizer.encode(prompt + space + ANSWER + END, add_bos=False)[len(before) : -1]
    if not spelled:
        return ids
    vocabulary = tokenizer._backend.get_vocab()
    tokens = [tokenizer._backend.id_to_token(i) for i in ids]
    return [
        vocabulary[part]
        for token in tokens
        for part in ([token] if token.startswith("<0x") else token)
    ]


@pytest.mark.parametrize(("template", "kind"), PAIRS)
def test_all_that_was_read_and_written_is_reused(open_kind, template, kind):
    """Whether the answer is cut as the tokenizer would, and ends by itself or at the limit."""
    llm = open_kind(template, kind)
    end = llm.tokenizer._backend.token_to_id(END)
    turns = [("Hello", False, [end]), (" What is the law?\n", True, []), ("é€😀", True, [end])]
    with Conversation(llm) as conversation:
        for question, spelled, last in [*turns, ("漢", False, [])]:
            before = conversation.cached_tokens
            ids = [*answer_tokens(llm, template, spelled=spelled), *last]
            assert ask(conversation, question, say(ids)) == before
            assert conversation.last.token_ids == ids
            assert conversation.last.text.strip() == ANSWER
            # Neither an end token nor the last one before the limit has been computed.
            prompt = conversation.last.prompt_tokens
            assert conversation.cached_tokens == prompt + len(ids) - 1


@pytest.mark.parametrize(("template", "kind"), PAIRS)
def test_answers_are_those_of_chat_where_the_tokenizer_agrees(open_kind, template, kind):
    llm, other = open_kind(template, kind), open_kind(template, kind)
    ids = [*answer_tokens(llm, template), llm.tokenizer._backend.token_to_id(END)]
    with Conversation(llm) as conversation:
        for question in QUESTIONS:
            messages = [*conversation.messages, {"role": "user", "content": question}]
            ask(conversation, question, say(ids))
            prompt = conversation._cached[: conversation.last.prompt_tokens].tolist()
            expected = other.chat_prompt(messages)
            if (template, kind) in OTHER_BLANKS and len(messages) > 1:
                assert words(llm, prompt) == words(other, expected)
                assert prompt != expected
                return
            assert prompt == expected
        expected = other.chat([*conversation.messages, {"role": "user", "content": "x"}], FREE)
        ask(conversation, "x", FREE)
        assert conversation.last.token_ids == expected.token_ids
        assert conversation.last.text == expected.text


def test_the_model_s_own_tokens_stay_where_the_tokenizer_would_cut_otherwise(open_kind):
    llm = open_kind("chatml", "byte-level")
    ids = answer_tokens(llm, "chatml", spelled=True)
    with Conversation(llm) as conversation:
        ask(conversation, "Hello", say(ids))
        read = conversation.last.prompt_tokens
        ask(conversation, "And?", FREE)
        assert conversation._cached[read : read + len(ids)].tolist() == ids
        whole = llm.chat_prompt([*conversation.messages[:-1]])
        mine = conversation._cached[: conversation.last.prompt_tokens].tolist()
        assert mine != whole
        assert llm.tokenizer.decode(mine) == llm.tokenizer.decode(whole)


def test_blanks_that_the_template_trims_stay(open_kind):
    llm = open_kind("roles", "byte-level")
    ids = answer_tokens(llm, "roles", spelled=True)
    blanks = llm.tokenizer.encode(" \n", add_bos=False)
    with Conversation(llm) as conversation:
        ask(conversation, "Hello", say([*ids, *blanks]))
        assert conversation.last.text == ANSWER + " \n"
        read = conversation.last.prompt_tokens
        assert ask(conversation, "And?", FREE) == read + len(ids) + len(blanks) - 1


def test_a_stop_string_that_begins_with_a_token_is_left_out(open_kind):
    llm = open_kind("chatml", "byte-level")
    ids = answer_tokens(llm, "chatml", spelled=True)
    with Conversation(llm) as conversation:
        ask(conversation, "Hello", say(ids, stop=" there"))
        assert conversation.last.text == "Hello"
        read = conversation.last.prompt_tokens
        assert ask(conversation, "And?", FREE) == read + len("Hello")


def test_what_a_template_or_the_user_changes_is_computed_anew(open_kind):
    llm, other = open_kind("chatml", "llama-legacy"), open_kind("chatml", "llama-legacy")
    ids = answer_tokens(llm, "chatml")
    special = llm.tokenizer._backend.token_to_id("<|tool|>")
    changes = [
        lambda c: setattr(c, "system", "Be brief."),
        lambda c: c._turns[1].update(content="Something else"),
        lambda c: c._turns.pop(0),
    ]
    for change in changes:
        with Conversation(llm) as conversation:
            # A special token within the answer is in no text.
            ask(conversation, "Hello", say([*ids, special, *ids], ignore_eos=True))
            assert conversation.last.text.count("known") == 2
            change(conversation)
            messages = [*conversation.messages, {"role": "user", "content": "x"}]
            expected = other.chat(messages, FREE)
            ask(conversation, "x", FREE)
            assert conversation.last.token_ids == expected.token_ids
            assert conversation.last.prompt_tokens == expected.prompt_tokens


def test_a_question_withdrawn_leaves_the_past_as_it_was(open_kind):
    llm = open_kind("chatml", "byte-level")
    ids = answer_tokens(llm, "chatml", spelled=True)
    with Conversation(llm) as conversation:
        ask(conversation, "Hello", say(ids))
        known = conversation.cached_tokens
        llm._session.interrupt_after = 0
        with pytest.raises(KeyboardInterrupt):
            ask(conversation, "Never asked", FREE)
        llm._session.interrupt_after = None
        assert ask(conversation, "And?", FREE) >= known


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["Hello there<|end|> law of", "<s> a\n\nb  c<|end|>", "é€😀 漢<"])
def test_the_rest_of_a_text_is_cut_as_within_it(tmp_path, kind, text):
    tokenizer = Tokenizer.from_pack(write_tokenizer(tmp_path, kind))
    whole = tokenizer.encode(text, add_bos=False)
    rests = [tokenizer.encode_rest(text, start) for start in range(len(text) + 1)]
    assert (rests[0], rests[-1]) == (whole, [])
    found = [rest for rest in rests if rest is not None]
    assert all(rest == whole[len(whole) - len(rest) :] for rest in found)
    assert [len(rest) for rest in found] == sorted((len(r) for r in found), reverse=True)
    for start, rest in enumerate(rests):
        if rest is not None:
            head = "".join(
                tokenizer._backend.id_to_token(i) for i in whole[: len(whole) - len(rest)]
            )
            assert head.count("<|end|>") == text[:start].count("<|end|>")
    assert len(found) > len(whole) // 2
    assert (None in rests) == (len(whole) < len(text) or text[0] == "é")


def test_an_answer_that_a_token_of_the_template_runs_into_is_computed_as_chat_would(open_kind):
    """The rest has no beginning of its own, so the whole text is tokenized."""
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
        "{{ 'llo' if m.role == 'assistant' else '' }}{% endfor %}<|assistant|>"
    )
    llm, other = open_kind("chatml", "byte-level"), open_kind("chatml", "byte-level")
    vocabulary = llm.tokenizer._backend.get_vocab()
    with Conversation(llm, chat_template=template) as conversation:
        ask(conversation, "x", say([vocabulary["H"], vocabulary["e"]]))
        messages = [*conversation.messages, {"role": "user", "content": "x"}]
        expected = other.chat(messages, FREE, chat_template=template)
        ask(conversation, "x", FREE)
        prompt = conversation._cached[: conversation.last.prompt_tokens].tolist()
        assert vocabulary["Hello"] in prompt
        assert prompt == other.chat_prompt(messages, chat_template=template)
        assert conversation.last.token_ids == expected.token_ids


def test_an_earlier_past_serves_where_the_last_does_not(open_kind):
    llm = open_kind("chatml", "byte-level")
    ids = answer_tokens(llm, "chatml", spelled=True)
    with Conversation(llm) as conversation:
        ask(conversation, "Hello", say(ids))
        past = conversation.last.prompt_tokens + len(ids)
        ask(conversation, "And?", say(ids))
        conversation._turns[-1]["content"] = "Something else"
        assert past <= ask(conversation, "x", FREE) < conversation.last.prompt_tokens - 20
