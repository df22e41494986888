# SPDX-License-Identifier: Apache-2.0
"""Errors in the files beside the weights are reported before the first byte is written."""

import json
import shutil

import pytest

from adapmoe.errors import CheckpointError
from adapmoe.text.tokenizer import Tokenizer
from adapmoe_export import export_pack
from support.models.checkpoints import make_config, make_tensors, write_checkpoint

POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""
SMALL = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)
SAVE = "AutoTokenizer.from_pretrained(checkpoint).save_pretrained(checkpoint)"


@pytest.fixture
def checkpoint(tmp_path, tiny_checkpoint):
    """A small model with the tokenizer of the tiny one, which has 4096 tokens."""
    config = make_config(vocab_size=4096)
    path = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config), shards=2)
    for name in SMALL:
        shutil.copy(tiny_checkpoint / name, path / name)
    return path


def edit(path, **changes):
    """Change fields of a JSON object. None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def refuse(checkpoint, *texts):
    out = checkpoint.parent / "out.adapmoe"
    with pytest.raises(CheckpointError) as error:
        export_pack(checkpoint, out)
    for text in texts:
        assert text in str(error.value)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]
    return str(error.value)


def test_a_sound_tokenizer_is_copied(checkpoint):
    (checkpoint / "tokenizer.model").write_bytes(b"not needed")
    notices = []
    export_pack(checkpoint, checkpoint.parent / "out.adapmoe", notice=notices.append)
    for name in SMALL:
        copy = checkpoint.parent / "out.adapmoe" / name
        assert copy.read_bytes() == (checkpoint / name).read_bytes()
    assert not notices


def test_a_checkpoint_without_tokenizer_gives_a_pack_for_token_ids(checkpoint):
    for name in SMALL:
        (checkpoint / name).unlink()
    notices = []
    export_pack(checkpoint, checkpoint.parent / "out.adapmoe", notice=notices.append)
    assert len(notices) == 1
    assert "token ids only" in notices[0]


def test_a_vocabulary_smaller_than_the_embedding_is_normal(tmp_path, tiny_checkpoint):
    config = make_config(vocab_size=4100)
    source = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config))
    shutil.copy(tiny_checkpoint / "tokenizer.json", source)
    export_pack(source, tmp_path / "out.adapmoe")


@pytest.mark.parametrize("name", ["tokenizer.model", "tekken.json", "vocab.json"])
def test_other_forms_of_tokenizer(checkpoint, name):
    (checkpoint / "tokenizer.json").rename(checkpoint / name)
    refuse(checkpoint, str(checkpoint), f"has {name} but no tokenizer.json", SAVE)


@pytest.mark.parametrize(
    "name",
    [
        *SMALL,
        "chat_template.jinja",
        "added_tokens.json",
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors",
    ],
)
def test_git_lfs_pointers(checkpoint, name):
    (checkpoint / name).write_text(POINTER)
    refuse(checkpoint, str(checkpoint), f"not the files themselves: {name};", "git lfs pull")


def test_all_pointers_are_named_at_once(checkpoint):
    names = sorted(path.name for path in checkpoint.iterdir())
    for name in names:
        (checkpoint / name).write_text(POINTER)
    refuse(checkpoint, *names)


def test_pointers_that_an_index_names(checkpoint):
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-0000", "part-0000"))
    for shard in checkpoint.glob("model-*"):
        shard.rename(checkpoint / shard.name.replace("model-", "part-"))
    (checkpoint / "part-00002-of-00002.safetensors").write_text(POINTER)
    refuse(checkpoint, "not the files themselves: part-00002-of-00002.safetensors;")


def test_pointers_of_files_that_are_not_read_do_no_harm(checkpoint):
    for name in ("consolidated.safetensors", "tokenizer.model", "README.md", "pytorch_model.bin"):
        (checkpoint / name).write_text(POINTER)
    export_pack(checkpoint, checkpoint.parent / "out.adapmoe")


def no_model(checkpoint):
    edit(checkpoint / "tokenizer.json", model=None)


def unknown_model(checkpoint):
    edit(checkpoint / "tokenizer.json", model={"type": "Telepathy", "vocab": {}})


def truncated(checkpoint):
    path = checkpoint / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:5000])


def html(checkpoint):
    (checkpoint / "tokenizer.json").write_text("<html>Access denied</html>")


def empty(checkpoint):
    (checkpoint / "tokenizer.json").write_text("")


def array(checkpoint):
    (checkpoint / "tokenizer.json").write_text("[]")


def not_utf8(checkpoint):
    (checkpoint / "tokenizer_config.json").write_bytes(b'{"bos_token": "\xff"}')


def template_not_utf8(checkpoint):
    (checkpoint / "chat_template.jinja").write_bytes(b"\xff\xfe")


def nested(checkpoint):
    (checkpoint / "special_tokens_map.json").write_text("[" * 100_000)


def settings_not_an_object(checkpoint):
    (checkpoint / "generation_config.json").write_text("7")


def unknown_bos(checkpoint):
    edit(checkpoint / "special_tokens_map.json", bos_token="<begin>")
    edit(checkpoint / "tokenizer_config.json", add_bos_token=True)


def token_of_the_settings(checkpoint):
    token = {"content": "<|im_end|>", "special": True}
    edit(checkpoint / "tokenizer_config.json", added_tokens_decoder={"4096": token})


def token_of_the_map(checkpoint):
    edit(checkpoint / "special_tokens_map.json", additional_special_tokens=["<|im_end|>"])


def extra_special_token(checkpoint):
    edit(checkpoint / "tokenizer_config.json", extra_special_tokens={"image": "<|im_end|>"})


def token_of_its_own_file(checkpoint):
    (checkpoint / "added_tokens.json").write_text('{"<|im_end|>": 4096}')


def end_as_text(checkpoint):
    edit(checkpoint / "generation_config.json", eos_token_id="</s>")


def end_as_fraction(checkpoint):
    edit(checkpoint / "generation_config.json", eos_token_id=[2, 3.5])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_model, "tokenizer.json: tokenizers "),
        (unknown_model, "tokenizer.json: tokenizers "),
        (truncated, "tokenizer.json: not valid JSON"),
        (html, "tokenizer.json: not valid JSON"),
        (empty, "tokenizer.json: not valid JSON"),
        (array, "tokenizer.json: expected a JSON object"),
        (not_utf8, "tokenizer_config.json: not valid JSON"),
        (template_not_utf8, "chat_template.jinja: not UTF-8 text"),
        (nested, "special_tokens_map.json: not valid JSON"),
        (settings_not_an_object, "generation_config.json: expected a JSON object"),
        (unknown_bos, "special_tokens_map.json: bos_token '<begin>' is not in tokenizer.json"),
        (token_of_the_settings, "tokenizer_config.json: names tokens that tokenizer.json does"),
        (token_of_the_map, "special_tokens_map.json: names tokens that tokenizer.json does"),
        (extra_special_token, "tokenizer_config.json: names tokens that tokenizer.json does"),
        (token_of_its_own_file, "added_tokens.json: names tokens that tokenizer.json does"),
        (end_as_text, "generation_config.json: eos_token_id is '</s>'"),
        (end_as_fraction, "generation_config.json: eos_token_id is [2, 3.5]"),
    ],
)
def test_unusable_files_are_named(checkpoint, damage, message):
    damage(checkpoint)
    refuse(checkpoint, str(checkpoint), message)


def test_ids_beyond_the_embedding(checkpoint):
    path = checkpoint / "tokenizer.json"
    added = json.loads(path.read_text())["added_tokens"]
    new = [added[0] | {"id": 4096 + i, "content": f"<|{i}|>"} for i in range(7)]
    edit(path, added_tokens=added + new)
    text = refuse(checkpoint, "7 tokens have ids beyond the embedding", "vocab_size is 4096")
    assert "'<|0|>' = 4096" in text
    assert "'<|4|>' = 4100, ...;" in text


def test_all_problems_are_named_at_once(checkpoint):
    html(checkpoint)
    not_utf8(checkpoint)
    end_as_text(checkpoint)
    template_not_utf8(checkpoint)
    text = refuse(checkpoint, *SMALL[:2], SMALL[3], "chat_template.jinja")
    assert len(text.splitlines()) == 4


@pytest.mark.torch
def test_the_advice_for_sentencepiece_works(checkpoint, tmp_path):
    """The line that the message gives makes a tokenizer.json that encodes as SentencePiece does."""
    import sentencepiece
    from transformers import AutoTokenizer

    (checkpoint / "tokenizer.json").unlink()
    text = (tmp_path.parent / "corpus.txt").resolve()
    lines = [f"def function_{i}(x):  return x + {i * i}  # naïve €" for i in range(300)]
    text.write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(checkpoint / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    edit(checkpoint / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    refuse(checkpoint, "has tokenizer.model but no tokenizer.json")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(checkpoint)
    export_pack(checkpoint, tmp_path / "out.adapmoe")
    reference = sentencepiece.SentencePieceProcessor(str(checkpoint / "tokenizer.model"))
    tokenizer = Tokenizer.from_pack(tmp_path / "out.adapmoe")
    for line in (*lines[:20], "ünseen 漢字 text"):
        assert tokenizer.encode(line, add_bos=False) == reference.encode(line)
