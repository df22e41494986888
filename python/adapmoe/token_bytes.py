# SPDX-License-Identifier: Apache-2.0
"""The bytes that one token stands for.

Tokens are not whole characters: with byte fallback "€" may be the three tokens <0xE2> <0x82>
<0xAC>, and byte-level vocabularies cut anywhere. Bytes per token can be joined and cut freely; text
per token cannot.
"""

import re
from collections.abc import Iterator
from typing import Any

import tokenizers

from adapmoe.errors import PackError

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
