# SPDX-License-Identifier: Apache-2.0
"""One sequence of tokens, driven step by step."""

import weakref
from collections.abc import Mapping
from collections.abc import Sequence as TokenSequence
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from adapmoe import checks
from adapmoe.errors import ClosedError
from adapmoe.generation.slots import Slot
from adapmoe.machine.process import NotCopied
from adapmoe.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from adapmoe import _core


TokenIds = TokenSequence[int] | NDArray[np.integer]


def as_token_ids(ids: TokenIds, vocab_size: int, name: str = "ids") -> NDArray[np.int32]:
    """Check token ids and turn them into int32 `[n]`.

    Raises:
        TypeError: not a sequence of integers; booleans and floats are not integers.
        ValueError: empty, not one-dimensional, or outside `[0, vocab_size)`.
    """
    return checks.token_ids(name, ids, vocab_size)


def is_one_prompt(prompt: Any) -> bool:
    """Text or one row of token ids, not a list of them. An empty list is a list of no prompts.

    Raises TypeError for what is none of them.
    """
    if isinstance(prompt, str):
        return True
    listed = hasattr(prompt, "__getitem__") and getattr(prompt, "ndim", 1) > 0
    if not listed or isinstance(prompt, bytes | bytearray | Mapping):
        raise checks.wrong_type("prompt", "text, token ids, or a list of either", prompt)
    if len(prompt) == 0:
        return False
    first = prompt[0]
    return not isinstance(first, str | TokenSequence) and getattr(first, "ndim", 0) == 0


def encode_prompts(
    prompts: str | TokenIds | TokenSequence[Any], tokenizer: Tokenizer, vocab_size: int
) -> list[NDArray[np.int32]]:
    """One prompt or several, text or token ids, as token ids int32 `[n]`.

    Raises TypeError and ValueError for what is no prompt, PackError as `Tokenizer.encode`.
    """

    def encode(name: str, prompt: Any) -> NDArray[np.int32]:
        if isinstance(prompt, str):
            prompt = tokenizer.encode(checks.text(name, prompt))
        return as_token_ids(prompt, vocab_size, name)

    if is_one_prompt(prompts):
        return [encode("prompt", prompts)]
    return [encode(f"prompt[{at}]", one) for at, one in enumerate(prompts)]


class Sequence(NotCopied):
    """A sequence of tokens with its own KV cache, from `LLM.new_sequence()` or `fork()`.

    Close it, or use it as a context manager, to give its slot back. Different threads may step
    different sequences. Several threads may call one sequence safely, but their tokens are appended
    in the order in which the calls happen to arrive.
    """

    def __init__(self, core: "_core.Sequence", slot: Slot, vocab_size: int) -> None:
        """Use `LLM.new_sequence()`."""
        self._core: _core.Sequence | None = core
        self._slot = slot
        self._vocab_size = vocab_size
        self._last_stats: _core.StepStats | None = None
        slot.occupant = weakref.ref(self)

    def prefill(self, ids: TokenIds, all_logits: bool = False) -> NDArray[np.float32]:
        """Append tokens.

        Args:
            ids: integers `[n]`, n >= 1.
            all_logits: return the logits of every new position, not only of the last.

        Returns:
            float32 `[vocab_size]`, or `[n, vocab_size]` with `all_logits`.

        Raises:
            TypeError: an id is not an integer.
            ValueError: there are no ids, or one is not in the vocabulary.
            ContextOverflowError: more tokens than `max_context`; nothing was appended.
            ReadError: an expert could not be read; nothing was appended.
            NonFiniteError: the model computed NaN or infinity; nothing was appended.
            ClosedError: the sequence or the model is closed.
        """
        checks.flag("all_logits", all_logits)
        tokens = as_token_ids(ids, self._vocab_size)
        logits, self._last_stats = self._open.prefill(tokens, all_logits)
        return logits

    def decode(self, token_id: int) -> NDArray[np.float32]:
        """Append one token and return the logits after it, float32 `[vocab_size]`.

        Raises what `prefill` raises.
        """
        token = checks.token_id("token_id", token_id, self._vocab_size)
        logits, self._last_stats = self._open.decode(token)
        return logits

    def capture(self, ids: NDArray[np.int32]) -> dict[str, Any]:
        """Append at most `prefill_chunk` tokens and record their activations.

        Returns:
            As `_core.Sequence.capture`. Raises what `prefill` raises.
        """
        return self._open.capture(ids)

    @property
    def _open(self) -> "_core.Sequence":
        core = self._core
        if core is None:
            raise ClosedError("this sequence is closed; open another one with LLM.new_sequence()")
        return core

    @property
    def last_stats(self) -> "_core.StepStats":
        """What the last step did.

        Raises:
            ValueError: no step has run yet.
        """
        if self._last_stats is None:
            raise ValueError("no step has run on this sequence yet: call prefill first")
        return self._last_stats

    @property
    def length(self) -> int:
        """Tokens in the KV cache; 0 once closed."""
        core = self._core
        return 0 if core is None else core.length

    @property
    def closed(self) -> bool:
        """Whether its slot has been given back."""
        return self._core is None

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens and forget the others; costs nothing.

        Raises:
            TypeError: `length` is not an integer.
            ValueError: `length` is negative, or more than the sequence has.
            ClosedError: the sequence or the model is closed.
        """
        core = self._open
        core.truncate(checks.integer("truncate: length", length, 0, core.length))

    def fork(self, length: int | None = None) -> "Sequence":
        """Return a second sequence with the same tokens, independent of this one.

        The KV cache is copied and nothing is computed. The new sequence takes a slot of its own.

        Args:
            length: take over the first `length` tokens only; None: all.

        Raises:
            AdapmoeError: all `max_sequences` slots are taken.
            TypeError: `length` is not an integer.
            ValueError: `length` is negative, or more than the sequence has.
            ClosedError: the sequence or the model is closed.
        """
        core = self._open
        if length is not None:
            length = checks.integer("fork: length", length, 0, core.length)
        slot = self._slot.slots.take()
        try:
            return Sequence(core.fork(length), slot, self._vocab_size)
        except BaseException:
            slot.give_back()
            raise

    def reset(self) -> None:
        """Forget all tokens and keep the slot. Raises ClosedError if the sequence is closed."""
        self._open.reset()

    def close(self) -> None:
        """Give the slot back once a running step ends. Closing twice is harmless."""
        core, self._core = self._core, None
        if core is not None:
            core.close()
            self._slot.give_back()

    def __del__(self) -> None:
        """Give the slot back when nobody refers to the sequence any more."""
        # The core's own destructor frees the KV cache, without waiting for other sequences' steps.
        if getattr(self, "_core", None) is not None:
            self._core = None
            self._slot.give_back()

    def __enter__(self) -> "Sequence":
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()


LogitsOf = Literal["last", "all", "none"]
StepItem = tuple[Sequence, TokenIds] | tuple[Sequence, TokenIds, LogitsOf]
_Checked = tuple[Sequence, NDArray[np.int32], LogitsOf]


def step(
    session: "_core.Session", items: TokenSequence[StepItem]
) -> list[NDArray[np.float32] | None]:
    """Append tokens to several sequences in one step; see `LLM.step`."""
    what = "(sequence, ids) or (sequence, ids, logits)"
    listed = _listed(items, f"a list of {what}")
    checked = [_checked_item(f"items[{at}]", what, item) for at, item in enumerate(listed)]
    rows = _run(session, checked)
    found: list[NDArray[np.float32] | None] = []
    first = 0
    for _, ids, logits in checked:
        count = {"last": 1, "all": len(ids), "none": 0}[logits]
        own = rows[first : first + count]
        found.append(own if logits == "all" else own[0] if count else None)
        first += count
    return found


def decode_batch(
    session: "_core.Session", items: TokenSequence[tuple[Sequence, int]]
) -> NDArray[np.float32]:
    """Append one token to each of several sequences in one step; see `LLM.decode_batch`."""
    listed = _listed(items, "a list of (sequence, token id) pairs")
    return _run(session, [_checked_pair(f"items[{at}]", item) for at, item in enumerate(listed)])


def _run(session: "_core.Session", items: TokenSequence[_Checked]) -> NDArray[np.float32]:
    rows, stats = session.step([(seq._open, ids, logits) for seq, ids, logits in items])
    for (seq, _, _), its_stats in zip(items, stats, strict=True):
        seq._last_stats = its_stats
    return rows


def _listed(items: object, expected: str) -> tuple[object, ...]:
    listed = checks.items("items", items, expected)
    if not listed:
        raise ValueError(f"items must be {expected}, at least one, not an empty list")
    return listed


def _checked_item(name: str, what: str, item: object) -> _Checked:
    if not (isinstance(item, tuple | list) and len(item) in (2, 3)) or not isinstance(
        item[0], Sequence
    ):
        raise checks.wrong_type(name, what, item)
    seq, ids = item[:2]
    logits = checks.choice(f"{name}[2]", item[2], get_args(LogitsOf)) if len(item) == 3 else "last"
    return seq, checks.token_ids(f"{name}[1]", ids, seq._vocab_size), cast(LogitsOf, logits)


def _checked_pair(name: str, item: object) -> _Checked:
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], Sequence):
        raise checks.wrong_type(name, "a (sequence, token id) pair", item)
    token = checks.token_id(f"{name}[1]", item[1], item[0]._vocab_size)
    return item[0], np.array([token], np.int32), "last"
