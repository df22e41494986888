# SPDX-License-Identifier: Apache-2.0
"""A text as windows of tokens, some to measure on and some to check on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import CalibrationError

WINDOW_TOKENS = 256  # less for a model that was trained for less
FEWEST_WINDOWS = 4

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Windows:
    """Windows of int32 `[n]`, all of the same length, that do not see each other.

    Attributes:
        fit: sensitivities are measured and the first layer's gate is trained on these.
        held_out: the contract and all accuracies are measured on these, from later in the text.
    """

    fit: list[Ids]
    held_out: list[Ids]


def window_tokens(positions: int) -> int:
    """How long the windows of a model are that was trained for so many positions.

    Raises:
        CalibrationError: no token could be predicted in one.
    """
    if positions < 2:
        raise CalibrationError(
            f"the model has {positions} position (max_position_embeddings): calibration predicts "
            "tokens from those before them, which needs 2"
        )
    return min(positions, WINDOW_TOKENS)


def cut_windows(ids: Ids, tokens: int = WINDOW_TOKENS) -> list[Ids]:
    """All whole windows of a text, of so many tokens each.

    Raises:
        CalibrationError: the text has fewer than FEWEST_WINDOWS.
    """
    windows = [ids[end - tokens : end] for end in range(tokens, len(ids) + 1, tokens)]
    if len(windows) < FEWEST_WINDOWS:
        raise CalibrationError(
            f"the text has {len(ids)} tokens, calibration needs {FEWEST_WINDOWS * tokens} "
            "or more: give a longer text of the kind that the model will see"
        )
    return windows


def split_windows(windows: list[Ids], count: int) -> Windows:
    """Take `count` windows spread evenly over the text: the first half to fit, the rest held out.

    Raises:
        ValueError: `count` is below FEWEST_WINDOWS or above the number of windows.
    """
    if not FEWEST_WINDOWS <= count <= len(windows):
        raise ValueError(
            f"windows must be from {FEWEST_WINDOWS} to {len(windows)}, "
            f"as many as the text has, not {count}"
        )
    chosen = [windows[i * len(windows) // count] for i in range(count)]
    half = (count + 1) // 2
    return Windows(chosen[:half], chosen[half:])
