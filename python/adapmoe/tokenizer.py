# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, whole or as a stream."""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from adapmoe.errors import PackError
from adapmoe.json_file import read_json
from adapmoe.token_bytes import TokenBytes


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
