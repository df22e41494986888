# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of generated tokens in the two shapes of OpenAI's APIs."""

from collections.abc import Sequence
from typing import Any

from adapmoe.generation.sampling import TokenLogprobs
from adapmoe.text.tokenizer import Tokenizer

_LOWEST = -9999.0  # for probability 0, whose logarithm JSON cannot hold


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
            text, _ = self._written(token.token_id)
            top = {self._written(i)[0]: _bounded(value) for i, value in token.top}
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
        text, data = self._written(token_id)
        return {"token": text, "logprob": _bounded(logprob), "bytes": list(data)}

    def _written(self, token_id: int) -> tuple[str, bytes]:
        """The text and the bytes of a token at this place."""
        special = self._tokenizer.special_text(token_id)
        if special is not None:
            return special, special.encode()
        data = self._tokenizer.token_bytes.lookup(token_id, at_start=self._at_start)
        try:
            return data.decode(), data
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data), data

    def _advance(self, token_id: int) -> None:
        table = self._tokenizer.token_bytes
        # Bytes that continue a character are not the beginning of one.
        data = table.lookup(token_id, at_start=self._at_start)
        self._offset += sum(byte & 0xC0 != 0x80 for byte in data)
        self._at_start = self._at_start and table.is_silent(token_id)


def _bounded(logprob: float) -> float:
    return max(logprob, _LOWEST)
