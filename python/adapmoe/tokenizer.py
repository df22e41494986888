# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, whole or as a stream; which tokens begin a text and end an answer."""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from adapmoe.errors import PackError
from adapmoe.json_file import read_json
from adapmoe.token_bytes import TokenBytes

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


class Tokenizer:
    """The tokenizer of a pack.

    Attributes:
        token_bytes: the bytes of every token.
        bos_id: put before every text; None: nothing is.
        eos_ids: tokens that end a generation; `read_end_tokens` says where they come from.
        notes: what a user should know when the pack is opened.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        token_bytes: TokenBytes,
        bos_id: int | None,
        eos_ids: frozenset[int],
        *,
        path: Path = Path("tokenizer.json"),
        model_vocab_size: int | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Use `from_pack`.

        Args:
            backend: the tokenizer itself.
            token_bytes: its table of bytes.
            bos_id: see the class.
            eos_ids: see the class.
            path: the tokenizer's file, for messages.
            model_vocab_size: ids from here on have no embedding; None: not known.
            notes: see the class.
        """
        self._backend = backend
        self.token_bytes = token_bytes
        self.bos_id = bos_id
        self.eos_ids = eos_ids
        self.notes = tuple(notes)
        self._path = path
        self._model_vocab_size = model_vocab_size

    @classmethod
    def from_pack(cls, directory: str | Path) -> "Tokenizer":
        """Read tokenizer.json, and the other files about tokens where present.

        Raises:
            PackError: a file is missing or cannot be used.
        """
        directory = Path(directory)
        path = directory / "tokenizer.json"
        spec = read_json(path, required=True)
        config = read_json(directory / CONFIG)
        special = special_tokens(directory)
        backend = _read_backend(path, config, special)
        ends, notes = _end_tokens(directory, backend, special)
        rows = _model_config(directory).get("vocab_size")
        return cls(
            backend,
            TokenBytes(backend, spec.get("decoder")),
            _bos_id(directory, backend, config, special),
            frozenset(end.token_id for end in ends),
            path=path,
            model_vocab_size=rows,
            notes=[*notes, *_ids_without_embedding(path, backend, rows)],
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the added ones included. The model may have more rows."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_bos: bool = True) -> list[int]:
        """Token ids of `text`, with the begin-of-sequence token in front exactly once.

        A text that already begins with it does not get a second one. Without `add_bos`, only what
        stands in the text: chat templates write the token themselves where the model wants it.

        Raises:
            PackError: the text needs a token that the model has no embedding for.
        """
        ids = self._backend.encode(text, add_special_tokens=False).ids
        if add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids = [self.bos_id, *ids]
        self._check_embeddings(ids)
        return ids

    def encode_rest(self, text: str, start: int) -> list[int] | None:
        """Token ids of `text[start:]` as they are within `text`; None if a token lies across.

        Raises:
            PackError: as `encode`.
        """
        encoding = self._backend.encode(text, add_special_tokens=False)
        offsets = enumerate(encoding.offsets)
        first = next((n for n, (begin, end) in offsets if max(begin + 1, end) > start), None)
        ids = [] if first is None else encoding.ids[first:]
        self._check_embeddings(ids)
        return None if first is not None and encoding.offsets[first][0] < start else ids

    def _check_embeddings(self, ids: list[int]) -> None:
        rows = self._model_vocab_size
        if rows is not None and ids and max(ids) >= rows:
            wrong = next(i for i in ids if i >= rows)
            raise PackError(
                f"{self._path}: the text has the token {self._backend.id_to_token(wrong)!r} with "
                f"id {wrong}, but the model has embeddings for ids 0 to {rows - 1} only; leave it "
                "out of the text or the chat template, or export again with the model's own "
                "tokenizer"
            )

    def decode(self, ids: Iterable[int], context: Sequence[int] = ()) -> str:
        """Text of `ids` without special tokens, as it reads after the tokens `context`.

        Without context, what transformers decodes with skip_special_tokens=True, except that bytes
        that are not UTF-8 become U+FFFD once per character begun, whatever the tokenizer.
        """
        stream = StreamDecoder(self, context)
        return "".join([*map(stream.push, ids), stream.flush()])

    def special_text(self, token_id: int) -> str | None:
        """How a special token is written, which decoding skips; None: it is an ordinary token."""
        return self.token_bytes.special_text(token_id)


class StreamDecoder:
    """Decodes token by token; a character is returned when its last byte has arrived.

    The pieces and `flush()` together are what `Tokenizer.decode` returns for the same tokens.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        """`context`: the tokens before, if the text continues theirs.

        Tokenizers that write words with the space before them drop it at the start of a text. So
        with a prompt as context the first word keeps its space, and without it is dropped.
        """
        self._table = tokenizer.token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = all(self._table.is_silent(i) for i in context)
        for token_id in context[-3:]:  # a character begun there may end here: at most 3 bytes of 4
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """Take one token; return the text that became complete, often "" or several characters."""
        piece = self._table.lookup(token_id, at_start=self._at_start)
        self._at_start = self._at_start and self._table.is_silent(token_id)
        return self._utf8.decode(piece)

    @property
    def has_part_of_character(self) -> bool:
        """Whether bytes are held back until the rest of their character arrives."""
        return bool(self._utf8.getstate()[0])

    def flush(self) -> str:
        """End the text: a character that is still incomplete becomes U+FFFD."""
        return self._utf8.decode(b"", final=True)


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
        backend = _read_backend(path, read_json(directory / CONFIG), special)
    return _end_tokens(directory, backend, special)[0]


def _end_tokens(
    directory: Path, backend: tokenizers.Tokenizer | None, special: dict[str, SpecialToken]
) -> tuple[list[EndToken], list[str]]:
    """End tokens by id, and notes."""
    sources: dict[int, list[str]] = {}
    generation = directory / "generation_config.json"
    for path, name, config in (
        (directory / "manifest.json", "config", _model_config(directory)),
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


def _model_config(directory: Path) -> dict[str, Any]:
    """The model's config as the manifest keeps it; {} for a checkpoint, which has no manifest."""
    config = read_json(directory / "manifest.json").get("config")
    return config if isinstance(config, dict) else {}


def _read_backend(
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


def _added_tokens(path: Path, listed: Any) -> list[tokenizers.AddedToken]:  # noqa: ANN401
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
    if text is None or isinstance(text, str):
        return text
    raise PackError(f'{path}: {name} must be text or {{"content": text}}, not {token!r}')


def _token_ids(path: Path, eos: Any) -> list[int]:  # noqa: ANN401 - whatever the file holds
    """What eos_token_id says: an id, a list of ids, or nothing."""
    ids: list[int] = [] if eos is None else eos if isinstance(eos, list) else [eos]
    if any(type(token_id) is not int for token_id in ids):
        raise PackError(f"{path}: eos_token_id must be a token id or a list of them, not {eos!r}")
    return ids


def _bos_id(
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


def _ids_without_embedding(
    path: Path, backend: tokenizers.Tokenizer, rows: int | None
) -> list[str]:
    """The note that the tokenizer knows more tokens than the model."""
    added = backend.get_added_tokens_decoder()
    size = max([backend.get_vocab_size(), *(token_id + 1 for token_id in added)])
    if rows is None or size <= rows:
        return []
    return [
        f"{path}: the tokenizer has {size} tokens, the model {rows}: texts that need one of the "
        f"ids {rows} to {size - 1}, such as {backend.id_to_token(size - 1)!r}, are refused"
    ]
