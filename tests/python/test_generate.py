# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from adapmoe import AdapmoeError, ContextOverflowError, PackError, SamplingParams

RANDOM = SamplingParams(max_tokens=12, temperature=1.0, seed=7)
PROMPTS = ["The first", "def f(", "a", "import os\n", "of the"]


def script_of(tokenizer, prompt, text):
    """Make the model answer `prompt` with the tokens of `text`, then </s>."""
    start = tokenizer.encode(prompt)
    answer = tokenizer.encode(prompt + text)[len(start) :]
    assert tokenizer.decode(answer, context=start) == text

    def script(history):
        return [*answer, 2][min(len(history) - len(start), len(answer))]

    return script, answer


def test_a_single_prompt_gives_one_result(open_llm):
    llm = open_llm()
    result = llm.generate("The first", SamplingParams(max_tokens=5))
    assert len(result.token_ids) == 5
    assert result.finish_reason == "length"
    assert result.prompt_tokens == len(llm.tokenizer.encode("The first"))
    assert result.text == llm.tokenizer.decode(
        result.token_ids, context=llm.tokenizer.encode("The first")
    )


def test_token_ids_are_a_prompt_too(open_llm):
    llm = open_llm()
    ids = llm.tokenizer.encode("The first")
    expected = llm.generate("The first", RANDOM).token_ids
    assert llm.generate(ids, RANDOM).token_ids == expected
    assert llm.generate(np.array(ids), RANDOM).token_ids == expected
    assert llm.generate([ids], RANDOM)[0].token_ids == expected


@pytest.mark.parametrize("max_sequences", [1, 2, 3, 8])
def test_a_list_gives_what_each_prompt_gives_alone(open_llm, max_sequences):
    alone = [open_llm().generate(prompt, RANDOM) for prompt in PROMPTS]
    llm = open_llm(max_sequences=max_sequences)
    together = llm.generate(PROMPTS, RANDOM)
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [r.text for r in together] == [r.text for r in alone]
    assert max(map(len, llm._session.batches)) == min(max_sequences, len(PROMPTS))
    assert llm.free_sequences == max_sequences


def test_a_place_is_filled_as_soon_as_it_is_free(open_llm):
    long = open_llm().tokenizer.encode("The first")

    def script(history):
        return None if history[: len(long)] == long else 2  # all others end at once

    llm = open_llm({"script": script}, max_sequences=2)
    results = llm.generate(["The first", "a", "of", "is"], SamplingParams(max_tokens=6))
    assert [r.finish_reason for r in results] == ["length", "stop", "stop", "stop"]


def test_an_empty_list_gives_an_empty_list(open_llm):
    assert open_llm().generate([]) == []


def test_sequences_of_the_caller_keep_their_places(open_llm):
    llm = open_llm(max_sequences=2)
    with llm.new_sequence():
        assert len(llm.generate(PROMPTS, RANDOM)) == len(PROMPTS)
        assert max(map(len, llm._session.batches)) == 1
        with llm.new_sequence(), pytest.raises(AdapmoeError, match="in use"):
            llm.generate("a", RANDOM)


def test_chunks_join_to_the_result(open_llm):
    llm = open_llm(max_sequences=2)
    stream = llm.generate(PROMPTS, RANDOM, stream=True)
    chunks = list(stream)
    for index, result in enumerate(stream.results):
        mine = [c for c in chunks if c.index == index]
        assert "".join(c.text for c in mine) == result.text
        assert [t for c in mine for t in c.token_ids] == result.token_ids
        assert [c.finish_reason for c in mine] == [None] * (len(mine) - 1) + ["length"]


def test_end_of_sequence_stops_and_is_no_text(open_llm, tokenizer):
    script, answer = script_of(tokenizer, "The first", " of the é€😀 end")
    llm = open_llm({"script": script})
    result = llm.generate("The first")
    assert result.text == " of the é€😀 end"
    assert result.finish_reason == "stop"
    assert result.token_ids == [*answer, 2]


def test_ignore_eos_goes_on(open_llm, tokenizer):
    script, answer = script_of(tokenizer, "The first", " of")
    llm = open_llm({"script": script})
    result = llm.generate("The first", SamplingParams(max_tokens=9, ignore_eos=True))
    assert result.finish_reason == "length"
    assert result.token_ids == [*answer, *[2] * (9 - len(answer))]


def test_a_stop_string_is_cut_off_and_never_shown(open_llm, tokenizer):
    script, _ = script_of(tokenizer, "The first", " of the END of it")
    llm = open_llm({"script": script})
    stream = llm.generate("The first", SamplingParams(stop=["END", "never"]), stream=True)
    assert "".join(chunk.text for chunk in stream) == " of the "
    assert stream.results[0].finish_reason == "stop"


def test_the_beginning_of_a_stop_string_at_the_end_is_text(open_llm, tokenizer):
    script, _ = script_of(tokenizer, "The first", " of EN")
    result = open_llm({"script": script}).generate("The first", SamplingParams(stop="END"))
    assert result.text == " of EN"


def test_no_chunk_has_half_a_character(open_llm, tokenizer):
    script, _ = script_of(tokenizer, "The first", " 😀€")
    chunks = list(open_llm({"script": script}).generate("The first", stream=True))
    assert "".join(c.text for c in chunks) == " 😀€"
    assert not any("\ufffd" in c.text for c in chunks)
    assert any(len(c.token_ids) > 1 for c in chunks)


def test_a_cut_off_character_is_one_replacement(open_llm, tokenizer):
    script, answer = script_of(tokenizer, "The first", " 😀")
    params = SamplingParams(max_tokens=len(answer) - 1)
    assert open_llm({"script": script}).generate("The first", params).text == " \ufffd"


def test_context_overflow_comes_before_any_work(open_llm):
    llm = open_llm(max_context=20)
    prompt_tokens = len(llm.tokenizer.encode("The first"))
    room = 20 - prompt_tokens
    assert len(llm.generate("The first", SamplingParams(max_tokens=room)).token_ids) == room
    before = llm.stats.tokens
    with pytest.raises(ContextOverflowError, match=f"{21} is more than max_context 20.*to {room}"):
        llm.generate(["a", "The first"], SamplingParams(max_tokens=room + 1), stream=True)
    with pytest.raises(ContextOverflowError, match="prompt has 20 tokens"):
        llm.generate([5] * 20)
    assert llm.stats.tokens == before


def test_the_default_is_256_tokens_or_what_fits(open_llm):
    params = SamplingParams(ignore_eos=True)
    assert len(open_llm().generate("The first", params).token_ids) == 256
    llm = open_llm(max_context=20)
    assert len(llm.generate([1, 5], params).token_ids) == 18


@pytest.mark.parametrize("ids", [[4096], [-1], [2**40], [2**70], [[]], [[1], [4096]]])
def test_ids_outside_the_vocabulary_are_refused(open_llm, ids):
    with pytest.raises(ValueError, match="token id"):
        open_llm().generate(ids)


def test_statistics_add_up(open_llm):
    llm = open_llm()
    result = llm.generate([1, 5, 9], SamplingParams(max_tokens=4))
    stats = result.stats
    assert (stats.prefill_tokens, stats.decode_tokens) == (3, 3)
    assert stats.experts_used == llm.stats.experts_used == 6 * 16
    assert stats.hit_rate == 0.5
    assert stats.bytes_read == llm.stats.bytes_read
    assert stats.prefill_tokens_per_s > 0
    assert stats.decode_tokens_per_s > 0


def test_an_interrupt_keeps_what_was_generated(open_llm):
    llm = open_llm({"interrupt_after": 3})
    stream = llm.generate([1, 5], SamplingParams(max_tokens=50), stream=True)
    shown = []
    with pytest.raises(KeyboardInterrupt):
        shown.extend(chunk.text for chunk in stream)
    assert stream.results[0].finish_reason is None
    assert len(stream.results[0].token_ids) == 3
    assert list(stream) == []
    assert llm.free_sequences == 1


def test_leaving_a_stream_early_gives_the_place_back(open_llm):
    llm = open_llm()
    with llm.generate([1, 5], stream=True) as stream:
        next(stream)
        assert llm.free_sequences == 0
    assert llm.free_sequences == 1


def test_a_pack_without_a_tokenizer_runs_on_ids_only(fake_core, tmp_path):
    import adapmoe

    with adapmoe.LLM(tmp_path) as llm, llm.new_sequence() as sequence:
        assert sequence.prefill([1, 2]).shape == (4096,)
        with pytest.raises(PackError, match=r"tokenizer\.json: missing"):
            llm.generate([1, 2])
