# SPDX-License-Identifier: Apache-2.0
"""The bytes that one token stands for.

Tokens are not whole characters: with byte fallback "€" may be the three tokens <0xE2> <0x82>
<0xAC>, and byte-level vocabularies cut anywhere. Bytes per token can be joined and cut freely; text
per token cannot.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import tokenizers

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
        """How a control token (such as <s>) is written; None: it is no control token."""
        token = self._special.get(token_id)
        return None if token is None else token.content

    def is_silent(self, token_id: int) -> bool:
        """Whether the token never adds text: a control token, or one the vocabulary lacks."""
        return token_id in self._special or self._backend.id_to_token(token_id) is None

    def lookup(self, token_id: int, *, at_start: bool) -> bytes:
        """The bytes of one token, empty for silent ones.

        Args:
            token_id: the token.
            at_start: it is the first of a text, where the decoder may drop a leading space.
        """
        token = self._backend.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        if self._byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            byte = int(match[1], 16)
            if not at_start or byte >= 0x80:  # the byte of a space may be one to drop
                return bytes([byte])
        if self._byte_level is not None and all(char in self._byte_level for char in token):
            return bytes(self._byte_level[char] for char in token)
        if at_start:
            return self._backend.decode([token_id]).encode()
        anchor, length = self._anchor
        return self._backend.decode([*anchor, token_id])[length:].encode()

    @cached_property
    def _anchor(self) -> tuple[list[int], int]:
        """A token that stands before another while that is decoded, and the length of its text.

        Decoders drop the space before the first word of a text. A token in the middle keeps its
        space, so it is decoded behind the anchor, whose own text is then cut off. A letter or digit
        is best: some decoders join punctuation with what follows. Nothing if no token has a text.
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
    """Characters by which byte-level vocabularies write bytes.

    Printable ones stand for themselves, the others are numbered from code point 256 upwards.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}
