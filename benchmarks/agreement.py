# SPDX-License-Identifier: Apache-2.0
"""Whether both sides compute the same model: the proof that the pairing is fair."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import OURS, PEER, Side
from benchmarks.sides import Runner


def measure_agreement(runner: Runner, ids: list[int]) -> dict[str, Any]:
    """Both decode the same ids one by one with everything resident. Raises SideFailed."""
    job = {"task": "agreement", "ids": ids, "prompt": 0, "warm_up": 0, "context": len(ids)}
    reports, arrays = [], []
    with tempfile.TemporaryDirectory() as folder:
        for side in (Side(OURS), Side(PEER, peer=True)):
            path = Path(folder) / f"{side.name}.npz"
            reports.append(runner.run(side, job | {"arrays": str(path)}, None))
            with np.load(path) as saved:
                arrays.append((saved["logits"], saved["routing"]))
    return compare(*arrays) | {
        "tokens": len(ids) - 1,
        "perplexity": {
            name: math.exp(report["nll"])
            for name, report in zip((OURS, PEER), reports, strict=True)
        },
    }


def compare(ours: tuple[np.ndarray, ...], peers: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Logits [tokens, vocab_size] and routing [tokens, layers, top_k], experts ascending."""
    (logits, routing), (other_logits, other_routing) = ours, peers
    difference = logits - other_logits
    return {
        "same_top_token": float(np.mean(logits.argmax(axis=1) == other_logits.argmax(axis=1))),
        "same_experts": float(np.mean((routing == other_routing).all(axis=2))),
        "rms_logit_difference": float(np.sqrt(np.mean(difference**2))),
        "logit_standard_deviation": float(logits.std()),
    }
