# SPDX-License-Identifier: Apache-2.0
"""How a model routes: what residency, prefetch and planning can build on."""

from typing import Any

import numpy as np

from adapmoe.calibration.gate_rule import expert_shares, select_experts
from adapmoe.calibration.recorded import Recorded

_TOP1_SHARES = (0.6, 0.7, 0.8, 0.9)


def routing_statistics(recorded: list[Recorded], router: dict[str, Any]) -> dict[str, Any]:
    """Per layer, over all windows.

    Returns:
        expert_frequency: `[layers][experts]`, share of tokens that use the expert; a row sums to
            top_k.
        top1_share_above: share of tokens whose strongest expert weighs more than 0.6 to 0.9.
        consecutive_overlap: share of a token's experts that the next token uses too.
    """
    top_k = router["top_k"]
    logits = np.stack([r.router_logits for r in recorded], axis=1)  # [layers, windows, n, experts]
    chosen = select_experts(logits, top_k)
    experts = np.arange(logits.shape[-1])
    used = (chosen[..., None] == experts).any(axis=-2)  # [layers, windows, n, experts]
    strongest = expert_shares(logits, router)[..., 0]
    overlap = (used[:, :, 1:] & used[:, :, :-1]).sum(axis=-1) / top_k
    return {
        "expert_frequency": used.mean(axis=(1, 2)).tolist(),
        "top1_share_above": {
            str(share): (strongest > share).mean(axis=(1, 2)).tolist() for share in _TOP1_SHARES
        },
        "consecutive_overlap": overlap.mean(axis=(1, 2)).tolist(),
    }
