# SPDX-License-Identifier: Apache-2.0
"""What `LLM(...)` may be given: one check per argument."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from adapmoe import checks
from adapmoe.units import parse_memory


def check_settings(settings: Mapping[str, object]) -> dict[str, Any]:
    """Check arguments of `LLM` by name and return them as plain Python values.

    Raises:
        TypeError: a value of a wrong type, or a name that no argument has.
        ValueError: a value out of its range.
    """
    for name in settings:
        if name not in SETTINGS:
            raise TypeError(f"{name!r} is not a setting of LLM; there are {', '.join(SETTINGS)}")
    return {name: SETTINGS[name](name, value) for name, value in settings.items()}


def _integer(low: int, high: int = checks.INT64_MAX) -> Callable[[str, object], int]:
    return lambda name, value: checks.integer(name, value, low, high)


def _number(low: float, high: float) -> Callable[[str, object], float]:
    return lambda name, value: checks.within(name, value, low, high)


def _not_negative(name: str, value: object) -> float:
    found = checks.number(name, value)
    if found < 0:
        raise checks.out_of_range(name, "0 or a positive finite number", found)
    return found


def _choice(*known: str) -> Callable[[str, object], str]:
    return lambda name, value: checks.choice(name, value, known)


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, object], Any]:
    return partial(checks.optional, check)


def _memory(name: str, value: object) -> int | str:
    """As given, because "auto" is more than a number of bytes."""
    size = parse_memory(value, name)
    return value if isinstance(value, str) else size


def _sensitivity(name: str, value: object) -> list[float]:
    several = checks.items(name, value, "a list of numbers")
    return [checks.number(f"{name}[{at}]", one) for at, one in enumerate(several)]


def _page_multiple(name: str, value: object) -> int:
    found = checks.integer(name, value, 0, 2**30)
    if found % 4096:
        raise checks.out_of_range(name, "a multiple of 4096", found)
    return found


SETTINGS: dict[str, Callable[[str, object], Any]] = {
    "path": checks.path,
    "memory": _memory,
    "threads": _or_none(_integer(0, 1024)),  # 0 is the core's way to say None
    "gating": _choice("off", "sensitivity", "residency"),
    "expert_fraction": _number(0, 1),
    "max_context": _integer(0),
    "max_sequences": _integer(1, 4096),
    "kv_dtype": _choice("f16", "f32"),
    "kernels": checks.text,  # which there are depends on the machine
    "backend": checks.text,
    "experts": checks.text,
    "exact": checks.flag,
    "policy": checks.text,
    "evict": _choice("tile", "expert"),
    "allocation": _choice("global", "uniform", "dp"),
    "prefetch": _integer(0, 3),
    "prefetch_trials": checks.flag,
    "first_layer": _choice("both", "embedding", "hidden", "none"),
    "verify": _choice("always", "first", "never"),
    "gating_threshold": _or_none(_not_negative),
    "sensitivity": _sensitivity,
    "prefill_chunk": _integer(1, 4096),
    "reader": _choice("auto", "io_uring", "pread"),
    "readers": _or_none(_integer(1, 256)),
    "request_bytes": _or_none(_page_multiple),
    "register_buffers": checks.flag,
    "direct_io": checks.flag,
    "warm_restart": checks.flag,
    "timeline": checks.flag,
    "verbose": checks.flag,
}
