# SPDX-License-Identifier: Apache-2.0
"""Runs variants one after the other, again and again, so that all see the same machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapmoe.bench.bound import Bound, read_experts
from adapmoe.bench.measurement import Measurement, measure, reset_peak_rss
from adapmoe.bench.variants import BASE, Settings
from adapmoe.bench.workload import Workload
from adapmoe.errors import BudgetError
from adapmoe.llm import LLM

_DISK_SECONDS = 2.0
_ALL_RESIDENT = "everything resident"


@dataclass(frozen=True)
class Round:
    """Every variant once, and what bounded them at that time."""

    bound: Bound
    runs: dict[str, Measurement]

    def fraction_of_bound(self, name: str) -> float:
        """The least time for a token over the time it took: 1 is perfect.

        Computing is that of all experts, so a gate that leaves some out may exceed 1.
        """
        run = self.runs[name]
        return self.bound.token_s(run.bytes_per_token) * run.decode_tokens_per_s

    def speedup(self, name: str) -> float:
        """Decode speed over that of the base in the same round."""
        return self.runs[name].decode_tokens_per_s / self.runs[BASE].decode_tokens_per_s


def run_rounds(
    pack: Path,
    experts: dict[str, Any],
    variants: Mapping[str, Settings],
    workload: Workload,
    *,
    repeat: int,
    on_run: Callable[[str], None],
) -> list[Round]:
    """Measure all variants `repeat` times, every other round backwards.

    Args:
        pack: its directory.
        experts: the manifest's `experts`.
        variants: {name: arguments of LLM}; one is BASE.
        workload: what every run is fed.
        repeat: rounds.
        on_run: told the name of each run before it begins.

    Raises what LLM and ReadError raise.
    """
    rounds = []
    for number in range(repeat):
        on_run("disk")
        bandwidth, direct = read_experts(pack, experts, seconds=_DISK_SECONDS)
        on_run(_ALL_RESIDENT)
        resident = _all_resident(pack, variants[BASE], workload)
        names = list(variants) if number % 2 == 0 else list(variants)[::-1]
        runs = {}
        for name in names:
            on_run(name)
            runs[name] = _run(pack, variants[name], workload)
        compute = resident or runs[BASE]
        bound = Bound(compute.compute_s_per_token, resident is not None, bandwidth, direct)
        rounds.append(Round(bound, runs))
    return rounds


def _all_resident(pack: Path, base: Settings, workload: Workload) -> Measurement | None:
    """None where the experts do not all fit into memory."""
    everything = {"memory": "auto", "expert_fraction": 1.0, "gating": "off"}
    try:
        return _run(pack, base | everything, workload)
    except BudgetError:
        return None


def open_variant(
    pack: Path, settings: Settings, workload: Workload, *, timeline: bool = False
) -> LLM:
    """A model for one run. Raises what LLM raises."""
    # What an earlier run left resident must not help this one.
    return LLM(pack, **settings, max_context=workload.length, warm_restart=False, timeline=timeline)


def _run(pack: Path, settings: Settings, workload: Workload) -> Measurement:
    reset_peak_rss()
    with open_variant(pack, settings, workload) as llm:
        return measure(llm, workload)
