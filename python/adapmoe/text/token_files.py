# SPDX-License-Identifier: Apache-2.0
"""What the files beside tokenizer.json say: special tokens, and which begin and end a text."""

from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from adapmoe.errors import PackError
from adapmoe.machine.files import read_json

CONFIG = "tokenizer_config.json"
SPECIAL_TOKEN_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class SpecialToken(NamedTuple):
    """How a special token is written, and which file says so."""

    text: str
    source: str


class EndToken(NamedTuple):
    """A token that ends a generation.

    Attributes:
        token_id: its id.
        text: how it is written; None if the tokenizer does not know it.
        sources: who says so: "config" is the model's config.json, the others are files.
    """

    token_id: int
    text: str | None
    sources: tuple[str, ...]


def special_tokens(directory: Path) -> dict[str, SpecialToken]:
    """The special tokens by name ("bos_token" and so on); null and "" are as good as absent.

    As in transformers, special_tokens_map.json goes before tokenizer_config.json, unless the latter
    lists all added tokens itself.

    Raises:
        PackError: a file cannot be read, or a token is neither text nor {"content": text}.
    """
    config = read_json(directory / CONFIG)
    files = [("special_tokens_map.json", read_json(directory / "special_tokens_map.json"))]
    files.insert(0 if config.get("added_tokens_decoder") is not None else 1, (CONFIG, config))
    found: dict[str, SpecialToken] = {}
    for source, values in files:
        for name in SPECIAL_TOKEN_NAMES:
            text = _token_text(directory / source, name, values.get(name))
            if text:
                found.setdefault(name, SpecialToken(text, source))
    return found


def read_end_tokens(directory: str | Path) -> list[EndToken]:
    """All tokens that end a generation, in the order of their ids, and who says so.

    They are those of the model's config, of generation_config.json and of the tokenizer together:
    fine-tunes often change only one of the three. Any of them may be missing.

    Raises:
        PackError: a file cannot be used.
    """
    directory = Path(directory)
    path = directory / "tokenizer.json"
    special = special_tokens(directory)
    backend = None
    if path.exists():
        backend = read_backend(path, read_json(directory / CONFIG), special)
    return find_end_tokens(directory, backend, special)[0]


def find_end_tokens(
    directory: Path, backend: tokenizers.Tokenizer | None, special: dict[str, SpecialToken]
) -> tuple[list[EndToken], list[str]]:
    """End tokens by id, and notes."""
    sources: dict[int, list[str]] = {}
    generation = directory / "generation_config.json"
    for path, name, config in (
        (directory / "manifest.json", "config", model_config(directory)),
        (generation, generation.name, read_json(generation)),
    ):
        for token_id in _token_ids(path, config.get("eos_token_id")):
            sources.setdefault(token_id, []).append(name)
    notes: list[str] = []
    named = special.get("eos_token")
    if named is not None and backend is not None:
        named_id = backend.token_to_id(named.text)
        unknown = f"{directory / named.source}: eos_token {named.text!r} is not in tokenizer.json"
        if named_id is not None:
            sources.setdefault(named_id, []).append(named.source)
        elif sources:
            notes.append(f"{unknown}, so it ends no answer")
        else:
            raise PackError(unknown)
    return [EndToken(i, _written(backend, i), tuple(sources[i])) for i in sorted(sources)], notes


def _written(backend: tokenizers.Tokenizer | None, token_id: int) -> str | None:
    if backend is None or not 0 <= token_id < 2**32:  # what the library takes
        return None
    return backend.id_to_token(token_id)


def model_config(directory: Path) -> dict[str, Any]:
    """The model's config as the manifest keeps it; {} for a checkpoint, which has no manifest."""
    config = read_json(directory / "manifest.json").get("config")
    return config if isinstance(config, dict) else {}


def read_backend(
    path: Path, config: dict[str, Any], special: dict[str, SpecialToken]
) -> tokenizers.Tokenizer:
    """The tokenizer, with the tokens that only the files beside it call added or special."""
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise PackError(f"{path}: not a tokenizer that can be used: {error}") from error
    backend.no_truncation()  # a saved limit would cut prompts without a word
    backend.no_padding()
    _add_tokens(backend, _added_tokens(path.with_name(CONFIG), config.get("added_tokens_decoder")))
    in_vocabulary = [t.text for t in special.values() if backend.token_to_id(t.text) is not None]
    _add_tokens(
        backend,
        [tokenizers.AddedToken(text, special=True, normalized=False) for text in in_vocabulary],
    )
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, tokens: list[tokenizers.AddedToken]) -> None:
    """Make tokens added ones that are not yet; they keep their ids if the vocabulary has them."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token in tokens:
        if token.content not in known:
            known.add(token.content)
            add = backend.add_special_tokens if token.special else backend.add_tokens
            add([token])


def _added_tokens(path: Path, listed: Any) -> list[tokenizers.AddedToken]:
    """tokenizer_config.json's added_tokens_decoder: {"32000": {"content": ..., ...}, ...}."""
    if listed is None:
        return []
    flags = ("lstrip", "rstrip", "single_word", "normalized", "special")
    try:
        return [
            tokenizers.AddedToken(token["content"], **{f: token[f] for f in flags if f in token})
            for _, token in sorted(listed.items(), key=lambda item: int(item[0]))
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PackError(
            f"{path}: added_tokens_decoder must map ids to objects with content and true or false "
            f"for {', '.join(flags)}: {error}"
        ) from error


def _token_text(path: Path, name: str, token: object) -> str | None:
    """A special token's text, written plainly or as {"content": text}."""
    text = token.get("content") if isinstance(token, dict) else token
    if text is None or (isinstance(text, str) and _is_unicode(text)):
        return text
    raise PackError(f'{path}: {name} must be text or {{"content": text}}, not {token!r}')


def _is_unicode(text: str) -> bool:
    """Not so with half of a surrogate pair, which JSON can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _token_ids(path: Path, eos: Any) -> list[int]:
    """What eos_token_id says: an id, a list of ids, or nothing."""
    ids: list[int] = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if any(type(token_id) is not int for token_id in ids):
        raise PackError(f"{path}: eos_token_id must be a token id or a list of them, not {eos!r}")
    return ids


def find_bos_id(
    directory: Path,
    backend: tokenizers.Tokenizer,
    config: dict[str, Any],
    special: dict[str, SpecialToken],
) -> int | None:
    """The token to put before texts, if add_bos_token or else the tokenizer itself says so."""
    path = directory / CONFIG
    wanted = config.get("add_bos_token")
    if wanted is not None and not isinstance(wanted, bool):
        raise PackError(f"{path}: add_bos_token must be true or false, not {wanted!r}")
    named = special.get("bos_token")
    bos_id = None if named is None else backend.token_to_id(named.text)
    if wanted is None:
        wanted = bos_id is not None and backend.encode("").ids[:1] == [bos_id]
    if wanted and named is None:
        raise PackError(f"{path}: add_bos_token is set but there is no bos_token")
    if wanted and named is not None and bos_id is None:
        raise PackError(
            f"{directory / named.source}: bos_token {named.text!r} is not in tokenizer.json"
        )
    return bos_id if wanted else None


def ids_without_embedding(path: Path, backend: tokenizers.Tokenizer, rows: int | None) -> list[str]:
    """The note that the tokenizer knows more tokens than the model."""
    added = backend.get_added_tokens_decoder()
    size = max([backend.get_vocab_size(), *(token_id + 1 for token_id in added)])
    if rows is None or size <= rows:
        return []
    return [
        f"{path}: the tokenizer has {size} tokens, the model {rows}: texts that need one of the "
        f"ids {rows} to {size - 1}, such as {backend.id_to_token(size - 1)!r}, are refused"
    ]
