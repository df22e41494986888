# SPDX-License-Identifier: Apache-2.0
"""What is kept of the windows: of a large model their activations would not fit in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapmoe.calibration.lookahead import LookaheadScore
from adapmoe.calibration.probe import Probe
from adapmoe.calibration.windows import Ids

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Recorded:
    """One window of n tokens, float32.

    Attributes:
        ids: int32 `[n]`.
        router_logits: `[layers, n, experts]`.
        final_hidden: `[n, hidden_size]`, after the last norm.
    """

    ids: Ids
    router_logits: F32
    final_hidden: F32


def record(
    probe: Probe,
    windows: list[Ids],
    on_window: Callable[[int, int], None],
    score: LookaheadScore | None = None,
) -> list[Recorded]:
    """Run the windows; `score` sees the activations of each before they are forgotten."""
    recorded = []
    for done, ids in enumerate(windows, start=1):
        captured = probe.capture(ids)
        if score is not None:
            score.add(captured)
        recorded.append(Recorded(ids, captured.router_logits, captured.final_hidden))
        on_window(done, len(windows))
    return recorded
