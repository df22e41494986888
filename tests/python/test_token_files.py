# SPDX-License-Identifier: Apache-2.0
"""Every key of the files beside tokenizer.json may be missing, null, an object, or nonsense."""

import json

import pytest

from adapmoe import PackError, SamplingParams
from adapmoe.conversation import Conversation
from adapmoe.text.chat_template import ChatTemplates
from adapmoe.text.token_files import SPECIAL_TOKEN_NAMES, read_end_tokens, special_tokens
from adapmoe.text.tokenizer import Tokenizer
from support.models.chat_templates import CHATML
from support.models.tokenizer_kinds import KINDS, tokenizer_json, write_tokenizer

NAMES = {
    "tokenizer_config": "tokenizer_config.json",
    "special_tokens_map": "special_tokens_map.json",
    "generation_config": "generation_config.json",
    "manifest": "manifest.json",
    "tokenizer": "tokenizer.json",
}


def write(directory, **files):
    """The llama-legacy tokenizer with these files beside it."""
    directory.mkdir(exist_ok=True)
    (directory / "tokenizer.json").write_text(tokenizer_json("llama-legacy"))
    for name, content in files.items():
        (directory / NAMES[name]).write_text(json.dumps(content))
    return directory


def bos_of(directory):
    return Tokenizer.from_pack(directory).bos_id


def with_bos_processor(spec):
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    return spec


@pytest.mark.parametrize("processor", [False, True])
@pytest.mark.parametrize("bos", ["<s>", {"content": "<s>", "lstrip": False}])
@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map"])
@pytest.mark.parametrize("add", [{}, {"add_bos_token": None}])
def test_null_is_as_good_as_absent(tmp_path, add, file, bos, processor):
    spec = json.loads(tokenizer_json("llama-legacy"))
    files = {"tokenizer_config": add} | {file: {"bos_token": bos}}
    if file == "tokenizer_config":
        files[file] |= add
    else:
        files["tokenizer_config"] = add | {"bos_token": None}
    write(tmp_path, **files, tokenizer=with_bos_processor(spec) if processor else spec)
    assert bos_of(tmp_path) == (1 if processor else None)
    assert special_tokens(tmp_path)["bos_token"].text == "<s>"


@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map", "generation_config"])
def test_keys_may_be_null_or_empty_or_missing(tmp_path, file):
    empty = dict.fromkeys([*SPECIAL_TOKEN_NAMES, "add_bos_token", "added_tokens_decoder"])
    empty |= {"eos_token_id": None, "chat_template": None}
    for content in ({}, empty, empty | dict.fromkeys(SPECIAL_TOKEN_NAMES, "")):
        write(tmp_path, **{file: content})
        tokenizer = Tokenizer.from_pack(tmp_path)
        assert (tokenizer.bos_id, tokenizer.eos_ids) == (None, frozenset())
        with pytest.raises(Exception, match="no chat template"):
            ChatTemplates.from_pack(tmp_path).find()


@pytest.mark.parametrize("wrong", [5, True, ["<s>"], {"content": 5}, "\ud800"])
@pytest.mark.parametrize("name", SPECIAL_TOKEN_NAMES)
@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map"])
def test_what_is_no_token_is_named(tmp_path, file, name, wrong):
    write(tmp_path, **{file: {name: wrong}})
    for read in (Tokenizer.from_pack, ChatTemplates.from_pack, read_end_tokens):
        with pytest.raises(PackError, match=rf"{file}\.json: {name} must be text or"):
            read(tmp_path)


@pytest.mark.parametrize("wrong", ["false", 1, [], {}])
def test_add_bos_token_is_true_or_false(tmp_path, wrong):
    write(tmp_path, tokenizer_config={"bos_token": "<s>", "add_bos_token": wrong})
    with pytest.raises(PackError, match=r"tokenizer_config\.json: add_bos_token must be true or"):
        Tokenizer.from_pack(tmp_path)


@pytest.mark.parametrize("wrong", ["2", 2.0, True, [2, "3"], [[2]], {"id": 2}])
@pytest.mark.parametrize("file", ["manifest", "generation_config"])
def test_what_is_no_end_token_is_named(tmp_path, file, wrong):
    content = {"eos_token_id": wrong}
    write(tmp_path, **{file: {"config": content} if file == "manifest" else content})
    for read in (Tokenizer.from_pack, read_end_tokens):
        with pytest.raises(PackError, match=rf"{file}\.json: eos_token_id must be a token id"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map", "generation_config"])
@pytest.mark.parametrize("content", ["null", "[]", "{", "[" * 10**5, '{"a": 1' + "0" * 5000 + "}"])
def test_what_is_no_object_is_named(tmp_path, name, content):
    write(tmp_path)
    (tmp_path / NAMES[name]).write_text(content)
    with pytest.raises(PackError, match=rf"{name}\.json: "):
        Tokenizer.from_pack(tmp_path)


@pytest.mark.parametrize("wrong", [5, [], {"3": 5}, {"3": {}}, {"x": {"content": "y"}}])
def test_what_are_no_added_tokens_is_named(tmp_path, wrong):
    write(tmp_path, tokenizer_config={"added_tokens_decoder": wrong})
    with pytest.raises(PackError, match=r"tokenizer_config\.json: added_tokens_decoder must map"):
        Tokenizer.from_pack(tmp_path)


def test_a_bos_token_that_is_not_used_need_not_exist(tmp_path):
    write(tmp_path, tokenizer_config={"bos_token": "<none>"})
    assert bos_of(tmp_path) is None
    write(tmp_path, tokenizer_config={"bos_token": "<none>", "add_bos_token": True})
    with pytest.raises(PackError, match=r"bos_token '<none>' is not in tokenizer\.json"):
        bos_of(tmp_path)


def test_a_limit_saved_with_the_tokenizer_cuts_nothing(tmp_path):
    spec = json.loads(tokenizer_json("llama-legacy"))
    spec["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    spec["padding"] = {
        "strategy": {"Fixed": 40},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    text = "The first law of robotics is known"
    expected = Tokenizer.from_pack(write(tmp_path)).encode(text)
    assert Tokenizer.from_pack(write(tmp_path, tokenizer=spec)).encode(text) == expected
    assert 3 < len(expected) < 40


def without_added(name):
    spec = json.loads(tokenizer_json("llama-legacy"))
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] != name]
    return spec


@pytest.mark.parametrize(
    "config",
    [
        {"eos_token": "<|end|>"},
        {"added_tokens_decoder": {"9": {"content": "<|end|>", "special": True}}},
    ],
)
def test_tokens_that_only_the_configuration_calls_special_are(tmp_path, config):
    write(tmp_path, tokenizer=without_added("<|end|>"))
    before = Tokenizer.from_pack(tmp_path)
    assert before.encode("law<|end|>")[-1] != 9
    write(tmp_path, tokenizer_config=config, tokenizer=without_added("<|end|>"))
    tokenizer = Tokenizer.from_pack(tmp_path)
    assert tokenizer.encode("law<|end|>")[-1] == 9
    assert tokenizer.decode(tokenizer.encode("law<|end|>")) == "law"
    assert tokenizer.special_text(9) == "<|end|>"


SOURCES = {
    "manifest": {"config": {"eos_token_id": [2]}},
    "generation_config": {"eos_token_id": [2, 7]},
    "tokenizer_config": {"eos_token": "<|im_end|>"},
}


def test_end_tokens_come_from_all_files_together(tmp_path):
    write(tmp_path, **SOURCES)
    ends = read_end_tokens(tmp_path)
    assert [end.token_id for end in ends] == [2, 4, 7]
    assert [end.text for end in ends] == ["</s>", "<|im_end|>", "<|assistant|>"]
    assert [end.sources for end in ends] == [
        ("config", "generation_config.json"),
        ("tokenizer_config.json",),
        ("generation_config.json",),
    ]
    assert Tokenizer.from_pack(tmp_path).eos_ids == {2, 4, 7}
    (tmp_path / "tokenizer.json").unlink()
    assert [tuple(end)[:2] for end in read_end_tokens(tmp_path)] == [(2, None), (7, None)]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["manifest"], {2}),
        (["generation_config"], {2, 7}),
        (["tokenizer_config"], {4}),
        ([], set()),
    ],
)
def test_each_source_is_enough(tmp_path, files, expected):
    write(tmp_path, **{name: SOURCES[name] for name in files})
    assert Tokenizer.from_pack(tmp_path).eos_ids == expected


@pytest.mark.parametrize("ids", [-1, 2**40, [2, -1]])
def test_end_tokens_that_never_come_do_no_harm(tmp_path, ids):
    write(tmp_path, generation_config={"eos_token_id": ids})
    assert Tokenizer.from_pack(tmp_path).eos_ids == set(ids if isinstance(ids, list) else [ids])


def test_an_end_token_that_the_tokenizer_lacks_is_said(tmp_path):
    config = {"eos_token": "<none>"}
    write(tmp_path, tokenizer_config=config, generation_config={"eos_token_id": 2})
    tokenizer = Tokenizer.from_pack(tmp_path)
    assert tokenizer.eos_ids == {2}
    assert "eos_token '<none>' is not in tokenizer.json" in tokenizer.notes[0]
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(PackError, match=r"eos_token '<none>' is not in tokenizer\.json"):
        Tokenizer.from_pack(tmp_path)


def small_model(directory, rows, kind="llama-legacy", **config):
    """A tokenizer that knows more tokens than its model."""
    write_tokenizer(directory, kind, chat_template=CHATML, **config)
    (directory / "manifest.json").write_text(json.dumps({"config": {"vocab_size": rows}}))
    return directory


def test_ids_beyond_the_embedding_are_typed_errors_when_they_come(tmp_path, open_llm, caplog):
    path = small_model(tmp_path / "pack", 4)
    llm = open_llm(path=path, warm_restart=False)
    notes = [m for m in caplog.messages if "such as" in m]
    assert len(notes) == 1
    assert "tokens, the model 4: texts that need one of the ids 4 to" in notes[0]
    assert llm.generate([1, 2], SamplingParams(max_tokens=1)).token_ids
    expected = (
        r"tokenizer\.json: the text has the token '<\|im_end\|>' with id 4, but the model has"
    )
    for ask in (
        lambda: llm.generate("<s><|im_start|><|im_end|>"),
        lambda: llm.generate(["<s>", "<|im_end|>"]),
        lambda: llm.tokenizer.encode_rest("<s><|im_end|>", 0),
    ):
        with pytest.raises(PackError, match=expected):
            ask()
    hello = [{"role": "user", "content": "Hello"}]
    with pytest.raises(PackError, match="has the token"):
        llm.chat(hello)
    with Conversation(llm) as conversation, pytest.raises(PackError, match="has the token"):
        next(conversation.ask("Hello", SamplingParams(max_tokens=1)))


def test_a_tokenizer_that_fits_its_model_says_nothing(tmp_path, open_llm, caplog):
    tokenizer = Tokenizer.from_pack(write(tmp_path / "x"))
    open_llm(path=small_model(tmp_path / "pack", tokenizer.vocab_size), warm_restart=False)
    assert caplog.messages == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", ["", "xyz", "!?"])
def test_a_vocabulary_without_the_letter_a_opens_and_decodes(tmp_path, kind, left):
    spec = json.loads(tokenizer_json(kind))
    keep = {t["content"]: t["id"] for t in spec["added_tokens"]}
    keep |= {char: 10 + n for n, char in enumerate(left)}
    spec["model"] |= {"vocab": keep, "merges": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = Tokenizer.from_pack(tmp_path)
    ids = [1, *range(10, 10 + len(left)), 2]
    assert tokenizer.decode(ids) == left
    assert tokenizer.decode(ids[1:], context=ids[:2]) == left
