# SPDX-License-Identifier: Apache-2.0
"""Decoded text is that of transformers, whole and as a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe import SamplingParams
from adapmoe.text.tokenizer import StreamDecoder, Tokenizer
from support.models.chat_templates import CHATML
from support.models.tokenizer_kinds import KINDS, write_tokenizer

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.torch

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    path = write_tokenizer(
        tmp_path_factory.mktemp("tokenizer"), request.param, chat_template=CHATML
    )
    return Tokenizer.from_pack(path), transformers.AutoTokenizer.from_pretrained(path)


@given(ids=st.lists(st.integers(0, 700), max_size=12))
def test_any_tokens_read_as_transformers_reads_them(both, ids):
    tokenizer, reference = both
    expected = reference.decode(ids, skip_special_tokens=True)
    if "\ufffd" not in expected:  # for what is not UTF-8, the number of replacements differs
        assert tokenizer.decode(ids) == expected
        stream = StreamDecoder(tokenizer)
        assert "".join([*map(stream.push, ids), stream.flush()]) == expected


@given(text=st.text("aeoh lt.\n<|end|>é€😀漢", max_size=30))
def test_texts_are_cut_as_transformers_cuts_them(both, text):
    tokenizer, reference = both
    ids = reference(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode(text, add_bos=False) == ids
    assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_a_chat_read_as_transformers_reads_them(tmp_path, open_llm, kind):
    path = write_tokenizer(tmp_path, kind, chat_template=CHATML)
    reference = transformers.AutoTokenizer.from_pretrained(path)
    llm = open_llm(path=path)
    words = [i for t, i in reference.get_vocab().items() if t[0] in "▁Ġ" and t[1:].isalpha()]
    params = SamplingParams(
        max_tokens=6, temperature=1, seed=2, logit_bias=dict.fromkeys(words, 50.0)
    )
    result = llm.chat(HELLO, params)
    expected = reference.decode(result.token_ids, skip_special_tokens=True)
    assert result.text == expected
    assert "".join(chunk.text for chunk in llm.chat(HELLO, params, stream=True)) == expected
    # A continuation keeps the space between the prompt and its first word.
    continued = llm.generate(llm.chat_prompt(HELLO), params)
    assert continued.token_ids == result.token_ids
    assert continued.text == " " + expected.lstrip(" ")
