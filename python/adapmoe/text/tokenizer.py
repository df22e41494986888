# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, whole or as a stream."""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from adapmoe.errors import PackError
from adapmoe.machine.files import read_json

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """Maps token ids to bytes, for the decoders that Hugging Face tokenizers use."""

    def __init__(self, backend: tokenizers.Tokenizer, decoder_spec: dict[str, Any] | None) -> None:
        """`decoder_spec`: the "decoder" object of tokenizer.json.

        Raises:
            PackError: the tokenizer cannot spell the letter "a".
        """
        kinds = set(_decoder_kinds(decoder_spec))
        self._backend = backend
        self._byte_fallback = "ByteFallback" in kinds
        self._byte_level = _byte_level_alphabet() if "ByteLevel" in kinds else None
        self._special = {i for i, t in backend.get_added_tokens_decoder().items() if t.special}
        # Decoders drop the space before the first word of a text. A token in the middle keeps its
        # space, so it is decoded behind this anchor, whose own text is then cut off.
        self._anchor = backend.encode("a", add_special_tokens=False).ids
        self._anchor_length = len(backend.decode(self._anchor))
        if self._anchor_length == 0:
            raise PackError("tokenizer.json: the vocabulary has no token for the letter 'a'")

    def is_special(self, token_id: int) -> bool:
        """Whether the token is control (such as <s>), not text."""
        return token_id in self._special

    def lookup(self, token_id: int, *, at_start: bool) -> bytes:
        """The bytes of one token, empty for special tokens and for ids that the vocabulary lacks.

        Args:
            token_id: the token.
            at_start: it is the first of a text, where the decoder may drop a leading space.
        """
        token = self._backend.id_to_token(token_id)
        if token is None or self.is_special(token_id):
            return b""
        if self._byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        if self._byte_level is not None and all(char in self._byte_level for char in token):
            return bytes(self._byte_level[char] for char in token)
        if at_start:
            return self._backend.decode([token_id]).encode()
        return self._backend.decode([*self._anchor, token_id])[self._anchor_length :].encode()


def _decoder_kinds(spec: dict[str, Any] | None) -> Iterator[str]:
    if spec is not None:
        yield spec["type"]
        for part in spec.get("decoders", ()):
            yield from _decoder_kinds(part)


def _byte_level_alphabet() -> dict[str, int]:
    """Characters by which byte-level vocabularies write bytes.

    Printable ones stand for themselves, the others are numbered from code point 256 upwards.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


class Tokenizer:
    """The tokenizer of a pack."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        token_bytes: TokenBytes,
        bos_id: int | None,
        eos_ids: frozenset[int],
    ) -> None:
        """Use `from_pack`.

        Args:
            backend: the tokenizer itself.
            token_bytes: its table of bytes.
            bos_id: put before every text; None: nothing is.
            eos_ids: tokens that end a generation.
        """
        self._backend = backend
        self.token_bytes = token_bytes
        self.bos_id = bos_id
        self.eos_ids = eos_ids

    @classmethod
    def from_pack(cls, directory: str | Path) -> "Tokenizer":
        """Read tokenizer.json, and tokenizer_config.json and generation_config.json where present.

        Raises:
            PackError: a file is missing or cannot be used.
        """
        directory = Path(directory)
        path = directory / "tokenizer.json"
        spec = read_json(path, required=True)
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise PackError(f"{path}: not a tokenizer that can be used: {error}") from error
        config = read_json(directory / "tokenizer_config.json")
        return cls(
            backend,
            TokenBytes(backend, spec.get("decoder")),
            _bos_id(backend, config, directory),
            _eos_ids(backend, config, directory),
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the added ones included. The model may have more rows."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_bos: bool = True) -> list[int]:
        """Token ids of `text`, with the begin-of-sequence token in front exactly once.

        A text that already begins with it does not get a second one. Without `add_bos`, only what
        stands in the text: chat templates write the token themselves where the model wants it.
        """
        ids = self._backend.encode(text, add_special_tokens=False).ids
        if not add_bos or self.bos_id is None or ids[:1] == [self.bos_id]:
            return ids
        return [self.bos_id, *ids]

    def decode(self, ids: Iterable[int], context: Sequence[int] = ()) -> str:
        """Text of `ids` without special tokens, as it reads after the tokens `context`.

        Bytes that are not UTF-8 become U+FFFD.
        """
        stream = StreamDecoder(self, context)
        return "".join([*map(stream.push, ids), stream.flush()])


class StreamDecoder:
    """Decodes token by token; a character is returned when its last byte has arrived.

    The pieces and `flush()` together are what `Tokenizer.decode` returns for the same tokens.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        """`context`: the tokens before, usually the prompt. They decide on the first space."""
        self._table = tokenizer.token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = all(self._table.is_special(i) for i in context)
        for token_id in context[-3:]:  # a character begun there may end here: at most 3 bytes of 4
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """Take one token; return the text that became complete, often "" or several characters."""
        piece = self._table.lookup(token_id, at_start=self._at_start)
        self._at_start = self._at_start and self._table.is_special(token_id)
        return self._utf8.decode(piece)

    def flush(self) -> str:
        """End the text: a character that is still incomplete becomes U+FFFD."""
        return self._utf8.decode(b"", final=True)


def _token_id(
    backend: tokenizers.Tokenizer, config: dict[str, Any], name: str, directory: Path
) -> int | None:
    """Id of a special token that tokenizer_config.json names as text or as {"content": text}."""
    token = config.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    if text is None:
        return None
    token_id = backend.token_to_id(text)
    if token_id is None:
        raise PackError(
            f"{directory / 'tokenizer_config.json'}: {name} {text!r} is not in tokenizer.json"
        )
    return token_id


def _bos_id(backend: tokenizers.Tokenizer, config: dict[str, Any], directory: Path) -> int | None:
    bos_id = _token_id(backend, config, "bos_token", directory)
    added_by_itself = bos_id is not None and backend.encode("").ids[:1] == [bos_id]
    if not config.get("add_bos_token", added_by_itself):
        return None
    if bos_id is None:
        raise PackError(
            f"{directory / 'tokenizer_config.json'}: add_bos_token is set but there is no bos_token"
        )
    return bos_id


def _eos_ids(
    backend: tokenizers.Tokenizer, config: dict[str, Any], directory: Path
) -> frozenset[int]:
    """The first that says so: generation_config.json, the model's config, tokenizer_config.json."""
    manifest = read_json(directory / "manifest.json")
    for source in (read_json(directory / "generation_config.json"), manifest.get("config", {})):
        eos = source.get("eos_token_id")
        if eos is not None:
            return frozenset(eos if isinstance(eos, list) else [eos])
    eos_id = _token_id(backend, config, "eos_token", directory)
    return frozenset() if eos_id is None else frozenset([eos_id])
