# SPDX-License-Identifier: Apache-2.0
"""Checks the tokenizer's files before a pack is written, so that it can be run once it is there."""

from collections.abc import Iterator
from pathlib import Path

import tokenizers

from adapmoe.errors import CheckpointError, PackError
from adapmoe.text.tokenizer import Tokenizer
from adapmoe_export.architecture import Json, shown
from adapmoe_export.hf_checkpoint import COPIED_FILES, read_json_object

# Tokenizers that transformers can convert to tokenizer.json.
_OTHER_FORMS = ("tokenizer.model", "spiece.model", "tekken.json", "vocab.json", "vocab.txt")
_SAVE = (
    "pip install transformers sentencepiece protobuf, then in Python: "
    "transformers.AutoTokenizer.from_pretrained(checkpoint).save_pretrained(checkpoint)"
)
_SHOWN_TOKENS = 5


def check_tokenizer_files(directory: Path, vocab_size: int) -> list[Path]:
    """The files of the checkpoint `directory` that are copied into its pack.

    `vocab_size` is the number of rows of the embedding; a vocabulary may be smaller. Raises
    CheckpointError, which names all problems at once.
    """
    copied = [path for name in COPIED_FILES if (path := directory / name).is_file()]
    problems: list[str] = []
    parsed: dict[str, Json] = {}
    for path in copied:
        try:
            if path.suffix == ".json":
                parsed[path.name] = read_json_object(path)
            else:
                path.read_text(encoding="utf-8")
        except (CheckpointError, UnicodeDecodeError) as error:
            named = str(path) in str(error)
            problems.append(str(error) if named else f"{path}: not UTF-8 text: {error}")
    if "tokenizer.json" in parsed:
        problems += _tokenizer_problems(directory, parsed, vocab_size)
    elif not (directory / "tokenizer.json").is_file():
        problems += _other_forms(directory)
    problems += _generation_problems(directory, parsed.get("generation_config.json", {}))
    if problems:
        raise CheckpointError("\n".join(problems))
    return copied


def _other_forms(directory: Path) -> Iterator[str]:
    found = [name for name in _OTHER_FORMS if (directory / name).is_file()]
    if found:
        yield (
            f"{directory}: has {' and '.join(found)} but no tokenizer.json, which the runtime "
            f"reads; make one: {_SAVE}"
        )


def _tokenizer_problems(directory: Path, parsed: dict[str, Json], vocab_size: int) -> Iterator[str]:
    path = directory / "tokenizer.json"
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        yield (
            f"{path}: tokenizers {tokenizers.__version__} cannot read it ({error}); download it "
            f"again, or make a new one: {_SAVE}"
        )
        return
    vocabulary = backend.get_vocab(with_added_tokens=True)
    beyond = sorted((i, token) for token, i in vocabulary.items() if i >= vocab_size)
    if beyond:
        tokens = ", ".join(f"{token!r} = {i}" for i, token in beyond[:_SHOWN_TOKENS])
        yield (
            f"{path}: {len(beyond)} tokens have ids beyond the embedding, whose vocab_size is "
            f"{vocab_size}: {tokens}{', ...' if len(beyond) > _SHOWN_TOKENS else ''}; take the "
            "tokenizer that the model was trained with, or resize the model's embedding"
        )
    yield from _unknown_tokens(directory, parsed, vocabulary)
    try:
        Tokenizer.from_pack(directory)
    except PackError as error:  # what it would say about the pack is true of the checkpoint
        yield str(error)


def _unknown_tokens(
    directory: Path, parsed: dict[str, Json], vocabulary: dict[str, int]
) -> Iterator[str]:
    """Tokens that transformers adds to the vocabulary because another file names them."""
    added = directory / "added_tokens.json"
    if added.is_file():
        try:
            parsed = parsed | {added.name: read_json_object(added)}
        except CheckpointError as error:
            yield str(error)
    for name in ("tokenizer_config.json", "special_tokens_map.json", added.name):
        named = _named_tokens(name, parsed.get(name, {}))
        if missing := sorted({token for token in named if token not in vocabulary}):
            yield (
                f"{directory / name}: names tokens that tokenizer.json does not have "
                f"({shown(missing)}); transformers adds them; save the files again: {_SAVE}"
            )


def _named_tokens(file: str, content: Json) -> Iterator[str]:
    if file == "added_tokens.json":
        yield from content
        return
    lists = [content.get("additional_special_tokens"), content.get("extra_special_tokens")]
    tables = [content.get("added_tokens_decoder"), content.get("extra_special_tokens")]
    values = [value for one in lists if isinstance(one, list) for value in one]
    values += [value for one in tables if isinstance(one, dict) for value in one.values()]
    for value in values:
        token = value.get("content") if isinstance(value, dict) else value
        if isinstance(token, str):
            yield token


def _generation_problems(directory: Path, config: Json) -> Iterator[str]:
    for key in ("bos_token_id", "eos_token_id"):
        value = config.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(type(token_id) is not int for token_id in ids):
            yield (
                f"{directory / 'generation_config.json'}: {key} is {shown(value)}, expected a "
                "token id, a list of them or null"
            )
