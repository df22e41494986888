# SPDX-License-Identifier: Apache-2.0
"""Spearman's rank correlation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """How well the order of `a` agrees with that of `b`: 1 the same, -1 reversed.

    Ties share their mean rank. nan where one of them is constant.

    Raises:
        ValueError: different lengths, or fewer than two values.
    """
    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"expected two lists of the same length >= 2, not {len(a)} and {len(b)}")
    x, y = (ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b)))
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm else float("nan")


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    below = (array[None, :] < array[:, None]).sum(axis=1)
    equal = (array[None, :] == array[:, None]).sum(axis=1)
    ranks: NDArray[np.float64] = below + (equal + 1) / 2
    return ranks
