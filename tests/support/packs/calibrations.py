# SPDX-License-Identifier: Apache-2.0
"""A calibration of a model with two layers of three experts, as `adapmoe calibrate` would make."""

from adapmoe.pack.calibration import (
    Calibration,
    Gating,
    Predictor,
    Provenance,
    Routing,
    Sensitivities,
    Threshold,
    Trained,
)

ORIGIN = {
    "text": "notes.txt",
    "text_sha256": "0" * 64,
    "windows": 8,
    "window_tokens": 256,
    "adapmoe": "0.1.0",
}
PAYS = Threshold(
    pays=True,
    threshold=0.25,
    activations_saved=0.125,
    perplexity_increase=0.005,
    perplexity_increase_bound=0.01,
    gated_steps=0.25,
)
PAYS_NOT = Threshold(pays=False, threshold=0.0, activations_saved=0.01)


def make_calibration(*, accuracy: float = 0.5, **gating: Threshold) -> Calibration:
    """`gating`: other thresholds than that of "sensitivity", or another one for it."""
    return Calibration(
        predictor=Predictor({1: [None, 0.5], 2: [None, None]}, {1: [None, 0.25], 2: [None, None]}),
        first_layer_gate=Trained(accuracy, 0.75, 0.875, 0.25),
        sensitivity={"direct": Sensitivities(**ORIGIN, values=[1.0, 2.0])},
        rank_correlation=None,
        gating=Gating(
            method="direct", max_perplexity_increase=0.01, **({"sensitivity": PAYS} | gating)
        ),
        single_ratio=[0.25, 0.5],
        routing=Routing([[0.5, 0.5, 1.0]] * 2, {"0.6": [0.5, 0.25]}, [0.5, 0.25]),
        provenance=Provenance(**ORIGIN),
    )
