# SPDX-License-Identifier: Apache-2.0
"""How much quantization changed the weights, per kind of tensor."""

import math
from collections import defaultdict

from adapmoe_export.architecture import Json


class ErrorReport:
    """Sums squared errors and squared weights per kind."""

    def __init__(self) -> None:
        """Start with no matrices."""
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, kind: str, squared_error: float, squared_weights: float) -> None:
        """Count one packed matrix (or a part of one)."""
        sums = self._sums[kind]
        sums[0] += squared_error
        sums[1] += squared_weights

    def summary(self) -> Json:
        """{kind: {"relative_rmse": sqrt(sum err^2 / sum w^2)}}, six significant digits."""
        return {
            kind: {"relative_rmse": float(f"{math.sqrt(error / weights if weights else 0.0):.6g}")}
            for kind, (error, weights) in sorted(self._sums.items())
        }
