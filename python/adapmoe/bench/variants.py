# SPDX-License-Identifier: Apache-2.0
"""The settings that an ablation compares, each one step away from the base."""

from collections.abc import Iterator
from typing import Any

Settings = dict[str, Any]  # arguments of LLM

BASE = "base"
_CHOICES: dict[str, tuple[Any, ...]] = {
    "prefetch": (0, 1, 2, 3),
    "prefetch_trials": (True,),
    "first_layer": ("embedding", "none"),
    "policy": ("next-use", "farthest-layer", "lru", "lfru", "least-stale"),
    "evict": ("tile", "expert"),
    "allocation": ("global", "uniform"),
    "verify": ("always", "never"),
    "register_buffers": (False, True),
}
_CALIBRATED: dict[str, tuple[Any, ...]] = {
    "first_layer": ("hidden", "both"),
    "allocation": ("dp",),
    "gating": ("off", "sensitivity", "residency"),
}


def ablation_of(base: Settings, *, calibrated: bool) -> dict[str, Settings]:
    """{name: settings}, the base first; what needs a calibration only where there is one.

    Prefetch is as given in all of them, so that each shows what its setting does, but for one that
    shows what trials cost.
    """
    base = base | {"prefetch_trials": False}
    variants = {BASE: base}
    for name, value in _changes(calibrated):
        if base["prefetch"] == 0 and name in ("first_layer", "prefetch_trials"):
            continue  # nothing is foreseen
        if base[name] != value:
            variants[f"{name}={value}"] = base | {name: value}
    return variants


def _changes(calibrated: bool) -> Iterator[tuple[str, Any]]:
    for choices in (_CHOICES, _CALIBRATED) if calibrated else (_CHOICES,):
        for name, values in choices.items():
            for value in values:
                yield name, value
