# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from adapmoe.errors import PackError
from adapmoe.text.tokenizer import StreamDecoder, TokenBytes, Tokenizer

# What UTF-8 can carry; without "<", because "<s>" in a text is read as a control token.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<")) | st.text(
    "a €é😀\u200d漢 \n", max_size=40
)


def stream(tokenizer, ids, context=()):
    decoder = StreamDecoder(tokenizer, context)
    return [decoder.push(i) for i in ids], decoder.flush()


@given(text=TEXT)
def test_streamed_text_is_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    pieces, rest = stream(tokenizer, ids)
    assert "".join(pieces) == text
    assert rest == ""
    assert tokenizer.decode(ids) == text


@given(text=TEXT)
def test_no_piece_has_half_a_character(tokenizer, text):
    pieces, _ = stream(tokenizer, tokenizer.encode(text))
    assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")


@given(text=TEXT, data=st.data())
def test_a_stream_goes_on_where_its_context_ended(tokenizer, text, data):
    ids = tokenizer.encode(text)
    cut = data.draw(st.integers(0, len(ids)))
    before, _ = stream(tokenizer, ids[:cut])
    after, rest = stream(tokenizer, ids[cut:], context=ids[:cut])
    assert "".join(before) + "".join(after) + rest == text


@given(ids=st.lists(st.integers(0, 4095), max_size=30))
def test_any_tokens_decode_alike_as_a_stream_and_whole(tokenizer, ids):
    pieces, rest = stream(tokenizer, ids)
    assert "".join(pieces) + rest == tokenizer.decode(ids)


@given(ids=st.lists(st.integers(259, 4095), max_size=30))
def test_whole_characters_decode_as_the_library_decodes_them(tokenizer, tiny_checkpoint, ids):
    reference = tokenizers.Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    assert tokenizer.decode(ids) == reference.decode(ids)


def test_an_interrupted_character_becomes_one_replacement(tokenizer):
    euro = [tokenizer._backend.token_to_id(t) for t in ("<0xE2>", "<0x82>", "<0xAC>")]
    letter = tokenizer._backend.token_to_id("b")
    assert stream(tokenizer, euro) == (["", "", "€"], "")
    assert stream(tokenizer, euro[:2]) == (["", ""], "\ufffd")
    assert stream(tokenizer, [*euro[:2], letter]) == (["", "", "\ufffdb"], "")
    assert stream(tokenizer, [letter, *euro, euro[0]]) == (["b", "", "", "€", ""], "\ufffd")


def test_the_space_before_the_first_word_depends_on_the_context(tokenizer):
    world = tokenizer.encode("the")[1:]
    assert tokenizer.decode(world) == "the"
    assert tokenizer.decode([tokenizer.bos_id, *world]) == "the"
    assert tokenizer.decode(world, context=[tokenizer.bos_id]) == "the"
    assert tokenizer.decode(world, context=tokenizer.encode("of")) == " the"


@pytest.mark.parametrize("text", ["the", "<s>the", "", "<s>"])
def test_bos_comes_exactly_once(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_id == 1
    assert ids.count(1) == 1


@pytest.mark.torch
def test_ids_are_those_of_transformers(tokenizer, tiny_checkpoint):
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(tiny_checkpoint)
    for text in ("The quick brown fox", "  two spaces\n\tand é€😀", "def f(x):\n    return x"):
        assert tokenizer.encode(text) == reference(text)["input_ids"]


def edited(directory, tiny_checkpoint, **files):
    """A copy of the tokenizer files; a dict replaces keys, None removes a file."""
    for name in ("tokenizer", "tokenizer_config", "generation_config"):
        path = directory / f"{name}.json"
        shutil.copy(tiny_checkpoint / path.name, path)
        if name in files and files[name] is None:
            path.unlink()
        elif name in files:
            path.write_text(json.dumps(json.loads(path.read_text()) | files[name]))
    return directory


def test_add_bos_token_is_obeyed(tmp_path, tiny_checkpoint):
    pack = edited(tmp_path, tiny_checkpoint, tokenizer_config={"add_bos_token": False})
    assert Tokenizer.from_pack(pack).encode("the")[0] != 1


@pytest.mark.parametrize("processor", [None, "as it is"])
def test_without_add_bos_token_the_post_processor_decides(tmp_path, tiny_checkpoint, processor):
    changes = {"tokenizer": {"post_processor": None}} if processor is None else {}
    pack = edited(
        tmp_path,
        tiny_checkpoint,
        tokenizer_config={"add_bos_token": None, "bos_token": {"content": "<s>"}},
        **changes,
    )
    config = json.loads((pack / "tokenizer_config.json").read_text())
    del config["add_bos_token"]
    (pack / "tokenizer_config.json").write_text(json.dumps(config))
    assert (Tokenizer.from_pack(pack).encode("the")[0] == 1) == (processor is not None)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer": None}, r"tokenizer\.json: missing"),
        ({"tokenizer": {"model": {"type": "?"}}}, r"tokenizer\.json: not a tokenizer"),
        (
            {"tokenizer_config": {"eos_token": "<end>"}, "generation_config": None},
            "eos_token '<end>'",
        ),
        ({"tokenizer_config": {"bos_token": None}}, "there is no bos_token"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, tiny_checkpoint, files, message):
    pack = edited(tmp_path, tiny_checkpoint, **files)
    with pytest.raises(PackError, match=message):
        Tokenizer.from_pack(pack)


@pytest.mark.parametrize("content", ["{", "[]", b"\xff"])
def test_a_damaged_file_is_named(tmp_path, tiny_checkpoint, content):
    pack = edited(tmp_path, tiny_checkpoint)
    (pack / "tokenizer_config.json").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    with pytest.raises(PackError, match=r"tokenizer_config\.json"):
        Tokenizer.from_pack(pack)


@settings(max_examples=30)
@given(text=TEXT)
def test_byte_level_vocabularies_stream_whole_characters(text):
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({char: n for n, char in enumerate(alphabet)}, [])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    spec = json.loads(backend.to_str())["decoder"]
    tokenizer = Tokenizer(backend, TokenBytes(backend, spec), None, frozenset())
    pieces, rest = stream(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == text
    assert rest == ""
