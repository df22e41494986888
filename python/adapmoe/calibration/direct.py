# SPDX-License-Identifier: Apache-2.0
"""Sensitivities measured by dropping experts and looking at what the model then says."""

import math
from collections.abc import Callable

import numpy as np

from adapmoe.calibration.log_softmax import divergence
from adapmoe.calibration.probe import Probe
from adapmoe.calibration.windows import Ids
from adapmoe.sampling import log_softmax


def direct_sensitivities(
    probe: Probe, windows: list[Ids], on_window: Callable[[int, int], None]
) -> list[float]:
    """Nats of divergence per unit of squared weight that a layer drops, one per layer.

    s_i = mean over tokens of KL(full model || layer i alone drops)
          / mean over tokens of the squared share of the weight dropped

    A layer drops its weakest experts as long as they weigh less than 1 / top_k together. With two
    experts per token that is exactly the second one; with more it always is the weakest, and others
    only where they hardly count, because the quadratic rule holds for small losses.
    """
    kl, dropped = np.zeros(probe.layers), np.zeros(probe.layers)
    for done, window in enumerate(windows, start=1):
        probe.set_gating("off")
        full = log_softmax(probe.prefill(window)[0])
        for layer in range(probe.layers):
            only_here = [math.inf] * probe.layers
            only_here[layer] = 1.0
            probe.set_gating("sensitivity", 1 / probe.top_k**2, only_here)
            logits, stats = probe.prefill(window)
            kl[layer] += divergence(full, log_softmax(logits)).sum()
            dropped[layer] += stats.dropped_share_sq
        on_window(done, len(windows))
    probe.set_gating("off")
    return [float(s) for s in np.maximum(kl, 0.0) / dropped]
