# SPDX-License-Identifier: Apache-2.0
"""Stop strings in streamed text."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text on, but never a stop string nor what may still become one.

    The result does not depend on how the text is cut into pieces: the stop string that is complete
    first ends the text, and of several complete at the same character the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops`: non-empty strings; may be empty."""
        self._stops = tuple(stops)
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been seen. No text follows after that."""
        return self._stopped

    def push(self, text: str) -> str:
        """Take more text; return what is certain to lie before any stop string."""
        if self._stopped:
            return ""
        text = self._held + text
        cut = self._find(text)
        if cut is not None:
            self._stopped, self._held = True, ""
            return text[:cut]
        keep = self._possible_beginning(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back: the text ends here, so it is not a stop string after all."""
        text, self._held = self._held, ""
        return text

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
