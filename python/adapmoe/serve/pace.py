# SPDX-License-Identifier: Apache-2.0
"""How much of a prompt goes into a step while answers are running."""

LEAST_ROWS = 16  # of prompts per step: each gets on, however slow the disk
_LEARN_AGAIN = 16  # after so many larger steps: the memory may have changed, or the disk
_LEAST = LEAST_ROWS.bit_length() - 1


class Pace:
    """Chooses the rows of prompts so that running answers keep coming.

    A step may take the wanted gap between two tokens, or twice as long as a step with `LEAST_ROWS`
    rows if that is more: with experts streamed, a few rows already need nearly all of them, and
    more rows cost little. So a running answer waits at most max(gap, 2 * t(LEAST_ROWS)) for its
    next token, as far as steps take as long as the ones before them.
    """

    def __init__(self, gap_s: float) -> None:
        """`gap_s`: wanted longest time between two tokens of an answer, in seconds."""
        self._gap_s = gap_s
        self._seconds: dict[int, float] = {}  # of a step, by the power of two that its rows reach
        self._larger = 0  # steps since LEAST_ROWS were tried

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a step with so many rows of prompts, if that is a power of two.

        What made it slower or faster than expected will do the same to steps of other sizes.
        """
        if rows & (rows - 1):
            return
        size = rows.bit_length() - 1
        before = self._seconds.setdefault(size, seconds)
        change = 0.5 * (before + seconds) / before
        self._seconds = {seen: value * change for seen, value in self._seconds.items()}

    def rows(self, most: int) -> int:
        """Rows for prompts in the next step, at most `most`; a power of two if fewer."""
        if _LEAST not in self._seconds or self._larger >= _LEARN_AGAIN:
            self._larger = 0
            return min(most, LEAST_ROWS)
        self._larger += 1
        allowed = max(self._gap_s, 2 * self._seconds[_LEAST])
        size = _LEAST
        while 1 << size < most and self._predict(size + 1) <= allowed:
            size += 1
        return min(1 << size, most)

    def _predict(self, size: int) -> float:
        """Seconds of a step of this size: as seen, else in proportion to the next smaller one."""
        smaller = max(seen for seen in self._seconds if seen <= size)
        scaled = self._seconds[smaller] * 2.0 ** (size - smaller)
        return min([scaled, *(self._seconds[seen] for seen in self._seconds if seen >= size)])
