# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of generated tokens in the two shapes of OpenAI's APIs."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from adapmoe.generation.sampling import TokenLogprobs
from adapmoe.text.tokenizer import Tokenizer

_LOWEST = -9999.0  # for probability 0, whose logarithm JSON cannot hold
_KEPT_TOKENS = 8192  # whose written form is kept


class _Written(NamedTuple):
    """A token as it is written, its bytes, and how many characters begin in it."""

    text: str
    data: list[int]
    length: int


class LogprobsWriter:
    """Writes the log-probabilities of one choice, piece by piece.

    A token that is not whole characters is written "bytes:\\xe2\\x82", as OpenAI does; a special
    token by its name, as the end-of-sequence token is the last one of many choices.
    """

    def __init__(self, tokenizer: Tokenizer, *, answers: bool) -> None:
        """`answers`: the text is one of its own, whose leading space tokenizers may drop."""
        self._tokenizer = tokenizer
        self._at_start = answers
        self._offset = 0  # characters of the text so far
        self._written = lru_cache(maxsize=_KEPT_TOKENS)(self._write)

    def chat(self, tokens: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
        """The next tokens as `content` of `logprobs` in chat completions."""
        return [self._chat_token(token) for token in tokens]

    def completion(self, tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """The next tokens as `logprobs` of a completion."""
        written: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for token in tokens:
            at_start = self._at_start
            text = self._written(token.token_id, at_start).text
            top = {self._written(i, at_start).text: _bounded(value) for i, value in token.top}
            written["tokens"].append(text)
            written["token_logprobs"].append(_bounded(token.logprob))
            written["top_logprobs"].append({text: _bounded(token.logprob)} | top)
            written["text_offset"].append(self._offset)
            self._advance(token.token_id)
        return written

    def _chat_token(self, token: TokenLogprobs) -> dict[str, Any]:
        entry = self._entry(token.token_id, token.logprob)
        entry["top_logprobs"] = [self._entry(i, value) for i, value in token.top]
        self._advance(token.token_id)
        return entry

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        written = self._written(token_id, self._at_start)
        return {"token": written.text, "logprob": _bounded(logprob), "bytes": written.data}

    def _write(self, token_id: int, at_start: bool) -> _Written:
        """A token at this place."""
        special = self._tokenizer.special_text(token_id)
        if special is not None:
            return _Written(special, list(special.encode()), 0)
        data = self._tokenizer.token_bytes.lookup(token_id, at_start=at_start)
        # Bytes that continue a character are not the beginning of one.
        length = sum(byte & 0xC0 != 0x80 for byte in data)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
        return _Written(text, list(data), length)

    def _advance(self, token_id: int) -> None:
        self._offset += self._written(token_id, self._at_start).length
        if self._at_start:
            self._at_start = self._tokenizer.token_bytes.is_silent(token_id)


def _bounded(logprob: float) -> float:
    return max(logprob, _LOWEST)
