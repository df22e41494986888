# SPDX-License-Identifier: Apache-2.0
"""Run as a program by the pairing: our side of it. The job comes in stdin; see timed_run.

Its own fields: `pack`, and `settings`, further arguments of LLM.
"""

from typing import Any

import numpy as np

from adapmoe import LLM
from adapmoe.pack.manifest import Manifest
from benchmarks import timed_run
from benchmarks.belady import belady_bytes, next_pass


class OurEngine:
    """One sequence of an LLM."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._llm = LLM(
            job["pack"],
            threads=job["threads"],
            max_context=job["context"],
            warm_restart=False,
            **job["settings"],
        )
        self._llm.record_trace(True)
        self._sequence = self._llm.new_sequence()

    def prefill(self, ids: list[int]) -> np.ndarray:
        return self._sequence.prefill(ids)

    def decode(self, token_id: int) -> np.ndarray:
        return self._sequence.decode(token_id)

    def clear(self) -> None:
        self._sequence.reset()

    def begin(self) -> None:
        self._before, self._first_pass = self._llm.stats, next_pass(self._llm.trace().visits)

    def routing(self) -> np.ndarray:
        visits = self._llm.trace().visits
        layers = 1 + max(layer for _, layer, _ in visits)
        experts = np.array([experts for _, _, experts in visits])
        return experts.reshape(-1, layers, experts.shape[1])

    def facts(self) -> dict[str, Any]:
        split, before, after = self._llm.memory_split, self._before, self._llm.stats
        visits = after.experts_used - before.experts_used
        facts: dict[str, Any] = {
            "tokens": after.tokens - before.tokens,
            "backend": self._llm.backend,
            "memory_bytes": split.memory_bytes,
            "experts_resident": split.frames / split.frames_total,
            "hit_rate": (after.expert_hits - before.expert_hits) / visits,
            "stall_share": (after.stall_s - before.stall_s) / (after.wall_s - before.wall_s),
        }
        if split.frames < split.frames_total:
            manifest = Manifest.read(self._llm.path)
            trace = self._llm.trace().visits
            facts["belady_bytes"] = belady_bytes(trace, manifest, split.frames, self._first_pass)
        return facts


if __name__ == "__main__":
    timed_run.main(OurEngine)
