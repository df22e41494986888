# SPDX-License-Identifier: Apache-2.0
"""How much of a prompt goes into a step while answers are running."""

LEAST_ROWS = 16  # of prompts per step: each gets on, however slow the disk


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

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a step with so many rows of prompts, at least one."""
        size = rows.bit_length() - 1
        before = self._seconds.get(size, seconds)
        self._seconds[size] = 0.5 * (before + seconds)

    def rows(self, most: int) -> int:
        """Rows for prompts in the next step, at most `most`; a power of two if fewer."""
        least = self._predict(LEAST_ROWS.bit_length() - 1)
        if least is None:
            return min(most, LEAST_ROWS)
        allowed = max(self._gap_s, 2 * least)
        rows = LEAST_ROWS
        while rows < most:
            seconds = self._predict((2 * rows).bit_length() - 1)
            if seconds is None or seconds > allowed:
                break
            rows *= 2
        return min(rows, most)

    def _predict(self, size: int) -> float | None:
        """Seconds of a step of this size, from the nearest one seen; larger ones in proportion."""
        if size in self._seconds:
            return self._seconds[size]
        smaller = max((seen for seen in self._seconds if seen < size), default=None)
        if smaller is None:
            return min(self._seconds.values(), default=None)
        larger = min((seen for seen in self._seconds if seen > size), default=None)
        scaled = self._seconds[smaller] * 2.0 ** (size - smaller)
        return scaled if larger is None else min(scaled, self._seconds[larger])
