# SPDX-License-Identifier: Apache-2.0
"""Stop strings in streamed text."""

from collections.abc import Sequence
from itertools import compress


class StopMatcher:
    """Passes text on, but never a stop string nor what may still become one.

    Stop strings are compared with the text as the model wrote it. That includes the special tokens,
    which are not shown: "<|im_end|>" can be a stop string, or a part of one. A special token inside
    of what would be a stop string without it keeps that from matching.

    The result does not depend on how the text is cut into pieces: the stop string that is complete
    first ends the text, and of several complete at the same character the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops`: non-empty strings; may be empty."""
        self._stops = tuple(stops)
        self._held = ""
        self._shown: list[bool] = []  # of each held character
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been seen. No text follows after that."""
        return self._stopped

    def push(self, text: str, *, shown: bool = True) -> str:
        """Take more text; return what is certain to lie before any stop string.

        `shown`: False for the text of special tokens, which takes part in the comparison only.
        """
        if self._stopped:
            return ""
        self._held += text
        self._shown += [shown] * len(text)
        cut = self._find(self._held)
        if cut is not None:
            self._stopped = True
            passed, self._held, self._shown = self._release(cut), "", []
            return passed
        return self._release(len(self._held) - self._possible_beginning(self._held))

    def flush(self) -> str:
        """Return what was held back: the text ends here, so it is not a stop string after all."""
        return self._release(len(self._held))

    def _release(self, length: int) -> str:
        """Hold so many characters no longer; return those of them that are shown."""
        passed = "".join(compress(self._held[:length], self._shown))
        self._held = self._held[length:]
        del self._shown[:length]
        return passed

    def _find(self, text: str) -> int | None:
        """Where the first complete stop string begins."""
        found = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if not found:
            return None
        _, begin = min((begin + len(stop), begin) for begin, stop in found)
        return begin

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
