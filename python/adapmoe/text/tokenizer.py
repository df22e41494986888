# SPDX-License-Identifier: Apache-2.0
"""From text to token ids and back, all at once or token by token."""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from adapmoe.errors import PackError
from adapmoe.machine.files import read_json
from adapmoe.text.token_files import (
    CONFIG,
    find_bos_id,
    find_end_tokens,
    ids_without_embedding,
    model_config,
    read_backend,
    special_tokens,
)

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """Maps token ids to bytes, for the decoders that Hugging Face tokenizers use."""

    def __init__(self, backend: tokenizers.Tokenizer, decoder_spec: dict[str, Any] | None) -> None:
        """`decoder_spec`: the "decoder" object of tokenizer.json."""
        kinds = set(_decoder_kinds(decoder_spec))
        self._backend = backend
        self._byte_fallback = "ByteFallback" in kinds
        self._byte_level = _byte_level_alphabet() if "ByteLevel" in kinds else None
        self._special = {i: t for i, t in backend.get_added_tokens_decoder().items() if t.special}

    def special_text(self, token_id: int) -> str | None:
        """The text of a control token such as <s>; None if it is not a control token."""
        token = self._special.get(token_id)
        return None if token is None else token.content

    def is_silent(self, token_id: int) -> bool:
        """Whether the token never adds text: a control token, or one the vocabulary lacks."""
        return token_id in self._special or self._backend.id_to_token(token_id) is None

    def lookup(self, token_id: int, *, at_start: bool) -> bytes:
        """The bytes of one token, empty for silent ones.

        Args:
            token_id: the token.
            at_start: whether it begins a text, where the decoder may drop a leading space.
        """
        token = self._backend.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        if self._byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            byte = int(match[1], 16)
            if not at_start or byte >= 0x80:  # the decoder may drop a leading space
                return bytes([byte])
        if self._byte_level is not None and all(char in self._byte_level for char in token):
            return bytes(self._byte_level[char] for char in token)
        if at_start:
            return self._backend.decode([token_id]).encode()
        anchor, length = self._anchor
        return self._backend.decode([*anchor, token_id])[length:].encode()

    @cached_property
    def _anchor(self) -> tuple[list[int], int]:
        """A token to put before another one while decoding it, and the length of its text.

        Decoders drop the space before the first word of a text. To keep the space of a token in the
        middle, it is decoded after the anchor, whose own text is then cut off. A letter or digit is
        best: some decoders join punctuation with what follows. Empty if no token has a text.
        """
        second_best: tuple[list[int], int] = ([], 0)
        for token_id in range(self._backend.get_vocab_size()):
            if token_id in self._special:
                continue
            text = self._backend.decode([token_id])
            if not text or not self._backend.decode([token_id, token_id]).startswith(text):
                continue
            if text.isascii() and text.isalnum():
                return [token_id], len(text)
            if not second_best[0] and "\ufffd" not in text:
                second_best = ([token_id], len(text))
        return second_best


def _decoder_kinds(spec: dict[str, Any] | None) -> Iterator[str]:
    if spec is not None:
        yield spec["type"]
        for part in spec.get("decoders", ()):
            yield from _decoder_kinds(part)


def _byte_level_alphabet() -> dict[str, int]:
    """The characters that byte-level vocabularies write for bytes.

    Printable bytes stand for themselves; the others are numbered from code point 256 upwards.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


class Tokenizer:
    """The tokenizer of a pack.

    Attributes:
        token_bytes: the bytes of every token.
        bos_id: the token put before every text; None: no token is.
        eos_ids: tokens that end a generation; `read_end_tokens` says where they come from.
        notes: what a user should be told when the pack is opened.
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
            bos_id, eos_ids, notes: see the class.
            path: the tokenizer's file, for messages.
            model_vocab_size: ids from here on have no embedding; None: unknown.
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
        backend = read_backend(path, config, special)
        ends, notes = find_end_tokens(directory, backend, special)
        rows = model_config(directory).get("vocab_size")
        return cls(
            backend,
            TokenBytes(backend, spec.get("decoder")),
            find_bos_id(directory, backend, config, special),
            frozenset(end.token_id for end in ends),
            path=path,
            model_vocab_size=rows,
            notes=[*notes, *ids_without_embedding(path, backend, rows)],
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included. The model may have more rows of logits."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @cached_property
    def longest_token_bytes(self) -> int:
        """No token stands for more bytes of text than this."""
        # What the vocabulary writes for a space or a byte is never shorter than that.
        return max(len(token.encode()) for token in self._backend.get_vocab())

    def encode(self, text: str, *, add_bos: bool = True) -> list[int]:
        """Token ids of `text`, with the begin-of-sequence token in front exactly once.

        A text that already begins with it does not get a second one. Without `add_bos` none is
        added: chat templates write it themselves if the model wants it.

        Raises:
            PackError: the text needs a token that the model has no embedding for.
        """
        ids = self._backend.encode(text, add_special_tokens=False).ids
        if add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids = [self.bos_id, *ids]
        self._check_embeddings(ids)
        return ids

    def encode_rest(self, text: str, start: int) -> list[int] | None:
        """Token ids of `text[start:]` as part of `text`; None if a token crosses `start`.

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
        """The text of `ids` without special tokens, as a continuation of the tokens `context`.

        Without context this is what transformers decodes with skip_special_tokens=True, except that
        with every tokenizer, bytes that are not UTF-8 become one U+FFFD per character begun.
        """
        stream = StreamDecoder(self, context)
        return "".join([*map(stream.push, ids), stream.flush()])

    def special_text(self, token_id: int) -> str | None:
        """The text of a special token, which decoding skips; None for an ordinary token."""
        return self.token_bytes.special_text(token_id)


class StreamDecoder:
    """Decodes token by token, and returns a character when its last byte has arrived.

    The pieces and `flush()` together are what `Tokenizer.decode` returns for the same tokens.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        """`context`: the tokens before, if this text continues theirs.

        Tokenizers that store words with a space in front drop it at the start of a text. With a
        prompt as context, the first word keeps its space; without context, the space is dropped.
        """
        self._table = tokenizer.token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = all(self._table.is_silent(i) for i in context)
        for token_id in context[-3:]:  # up to 3 bytes of a character may already be there
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """Take one token and return the text that it completes, "" or any number of characters."""
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
