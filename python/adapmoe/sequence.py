# SPDX-License-Identifier: Apache-2.0
"""One token stream, driven step by step."""

from collections.abc import Sequence as TokenSequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from adapmoe import _core

TokenIds = TokenSequence[int] | NDArray[np.integer]


def as_token_ids(ids: TokenIds, vocab_size: int) -> NDArray[np.int32]:
    """Check token ids and turn them into int32 `[n]`.

    Raises:
        ValueError: empty, not one-dimensional, not integers, or outside `[0, vocab_size)`.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            "token ids must be a non-empty one-dimensional sequence of integers, "
            f"not {array.dtype} of shape {array.shape}"
        )
    wrong = array[(array < 0) | (array >= vocab_size)]
    if wrong.size:
        raise ValueError(f"token id {wrong[0]} is outside the vocabulary of {vocab_size} tokens")
    return np.ascontiguousarray(array, dtype=np.int32)


class Sequence:
    """A token stream with its own KV cache, from `LLM.new_sequence()`.

    Close it, or use it as a context manager, to give its place back.
    """

    def __init__(self, core: "_core.Sequence", vocab_size: int) -> None:
        """Use `LLM.new_sequence()`."""
        self._core = core
        self._vocab_size = vocab_size
        self._last_stats: _core.StepStats | None = None

    def prefill(self, ids: TokenIds, all_logits: bool = False) -> NDArray[np.float32]:
        """Append tokens.

        Args:
            ids: integers `[n]`, n >= 1.
            all_logits: return the logits of every new position, not only of the last.

        Returns:
            float32 `[vocab_size]`, or `[n, vocab_size]` with `all_logits`.

        Raises:
            ValueError: ids that are not in the vocabulary.
            ContextOverflowError: more tokens than `max_context`; nothing was appended.
            ReadError: an expert could not be read.
        """
        tokens = as_token_ids(ids, self._vocab_size)
        logits, self._last_stats = self._core.prefill(tokens, all_logits)
        return logits

    def decode(self, token_id: int) -> NDArray[np.float32]:
        """Append one token and return the logits after it, float32 `[vocab_size]`.

        Raises what `prefill` raises.
        """
        logits, self._last_stats = self._core.decode(int(token_id))
        return logits

    @property
    def last_stats(self) -> "_core.StepStats":
        """What the last step did.

        Raises:
            ValueError: there was none yet.
        """
        if self._last_stats is None:
            raise ValueError("no step has run on this sequence yet: call prefill first")
        return self._last_stats

    @property
    def length(self) -> int:
        """Tokens in the KV cache."""
        return self._core.length

    @property
    def closed(self) -> bool:
        """Whether its place has been given back."""
        return self._core.closed

    def reset(self) -> None:
        """Forget all tokens and keep the place."""
        self._core.reset()

    def close(self) -> None:
        """Give the place back. Closing twice is harmless."""
        if not self._core.closed:
            self._core.close()

    def __enter__(self) -> "Sequence":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def decode_batch(
    session: "_core.Session", items: TokenSequence[tuple[Sequence, int]]
) -> NDArray[np.float32]:
    """Append one token to each of several sequences in one step; see `LLM.decode_batch`."""
    logits, stats = session.decode_batch([(seq._core, int(token)) for seq, token in items])
    for seq, _ in items:
        seq._last_stats = stats
    return logits
