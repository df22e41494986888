# SPDX-License-Identifier: Apache-2.0
"""Every setting of an open pack, once: name, type, default, unit, help and group.

`LLM(...)` and the command line derive their parameters from `Settings`; the compiled core gets its
share by name.
"""

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

from adapmoe import checks
from adapmoe.units import parse_memory, parse_share

P = ParamSpec("P")
T = TypeVar("T")
PathLike = str | os.PathLike[str]

MEMORY, OUTPUT, ADVANCED = "Memory", "Output", "Advanced"  # groups, as help shows them


def option(
    default: Any,
    help: str,
    *,
    check: Callable[[str, Any], Any],
    group: str = ADVANCED,
    core: bool = True,
    metavar: str = "",
    unset: Any = None,
) -> Any:
    """A field of `Settings`, or of a dataclass like it.

    Args:
        default: used where nothing is given; of several words, help lists it first.
        help: one short line, with the unit.
        check: `check(name, value)` returns the value as the core takes it, or raises TypeError or
            ValueError with the name.
        group: heading under which help lists it.
        core: passed to the compiled core under this name.
        metavar: what help calls the value; "" for the name of the type.
        unset: what the core is given for None.
    """
    metadata = {"help": help, "check": check, "group": group, "core": core, "metavar": metavar}
    return field(default=default, metadata=metadata | {"unset": unset})


def _one_of(*names: str) -> Callable[[str, Any], str]:
    return functools.partial(checks.choice, known=names)


def _whole(low: int, high: int = checks.INT64_MAX) -> Callable[[str, Any], int]:
    return functools.partial(checks.integer, low=low, high=high)


def _not_negative(name: str, value: Any) -> float:
    found = checks.number(name, value)
    if found < 0:
        raise checks.out_of_range(name, "0 or a positive finite number", found)
    return found


def _numbers(name: str, value: Any) -> list[float]:
    several = checks.items(name, value, "a list of numbers")
    return [checks.number(f"{name}[{at}]", one) for at, one in enumerate(several)]


def _pages(name: str, value: Any) -> int:
    found = checks.integer(name, value, 0, 1 << 30)
    if found % 4096:
        raise checks.out_of_range(name, "a multiple of 4096", found)
    return found


ALLOCATIONS = ("global", "uniform", "dp")
FIRST_LAYER = ("embedding", "hidden", "both", "none")
GATING = ("off", "sensitivity", "residency")
POLICIES = ("next-use", "farthest-layer", "lru", "lfru", "least-stale")


@dataclass(frozen=True)
class Settings:
    """How a pack is opened; every field is an argument of `LLM` and an option of the command line.

    Raises:
        TypeError, ValueError: a field of a wrong type, or out of its range; the message names it.
    """

    memory: int | str = option(
        "auto",
        "Ceiling for weights, KV cache, scratch and experts: auto (80 % of what this process may "
        "still take), 12GiB, 2.5GB or bytes.",
        check=lambda name, value: parse_memory(value, name),
        group=MEMORY,
        metavar="SIZE",
    )
    threads: int | None = option(
        None,
        "Compute threads; default: one per core that this process may use.",
        check=_whole(1, 1024),
        unset=0,
    )
    gating: str = option(
        "off",
        "off is exact; sensitivity, residency: skip experts as calibrated.",
        check=_one_of(*GATING),
    )
    _: KW_ONLY
    experts_resident: float | str | None = option(
        None,
        "Instead of memory: room for this share of all experts, 50% or 0.5.",
        check=lambda name, value: parse_share(value, name),
        group=MEMORY,
        metavar="SHARE",
        unset=0.0,
    )
    max_context: int = option(
        0,
        "Most tokens per sequence; 0: as trained, at most 4096.",
        check=_whole(0),
        group=MEMORY,
    )
    max_sequences: int = option(
        1,
        "Sequences at a time, each with a KV cache of its own.",
        check=_whole(1, 4096),
        group=MEMORY,
    )
    kv_dtype: str = option(
        "f16", "Type of the KV cache: f16 or f32.", check=_one_of("f16", "f32"), group=MEMORY
    )
    backend: str = option(
        "auto",
        "auto (the GPU where it shares the CPU's memory), cpu or cuda.",
        check=_one_of("auto", "cpu", "cuda"),
    )
    exact: bool = option(
        True,
        "Permit only what gives the bits of the CPU.",
        check=checks.flag,
    )
    arithmetic: str = option(
        "auto",
        "auto, w4a8 (exact); with exact off also w4a16, tensorrt (on a GPU).",
        check=_one_of("auto", "w4a8", "w4a16", "tensorrt"),
    )
    kernels: str = option(
        "auto",
        "auto, scalar, avx2, avx512 or neon; all give the same bits.",
        check=_one_of("auto", "scalar", "avx2", "avx512", "neon"),
    )
    policy: str = option(
        "next-use",
        "Evict first: next-use, farthest-layer, lru, lfru or least-stale.",
        check=_one_of(*POLICIES),
    )
    evict: str = option(
        "tile", "Evict by the tile, or by the whole expert.", check=_one_of("tile", "expert")
    )
    allocation: str = option(
        "global",
        "Room of layers: global, uniform, or dp (in a calibrated pack).",
        check=_one_of(*ALLOCATIONS),
        core=False,
    )
    prefetch: int = option(
        1,
        "Most layers to read ahead for, 0 (off) to 3.",
        check=_whole(0, 3),
    )
    prefetch_trials: bool = option(
        True,
        "Read ahead for fewer layers where that is faster.",
        check=checks.flag,
    )
    first_layer: str = option(
        "embedding",
        "Layer 0 foreseen by: embedding, hidden (calibrated), both or none.",
        check=_one_of(*FIRST_LAYER),
        core=False,
    )
    verify: str = option(
        "always",
        "Check the CRC of tiles: always, first (when first read) or never.",
        check=_one_of("always", "first", "never"),
    )
    gating_threshold: float | None = option(
        None,
        "T of the gating rule, 0 leaves nothing out; default: calibrated.",
        check=_not_negative,
        core=False,
    )
    sensitivity: Sequence[float] = option(
        (),
        "s_i of the gating rule, one per layer; default: calibrated.",
        check=_numbers,
        core=False,
    )
    prefill_chunk: int = option(128, "Most prompt tokens per step.", check=_whole(1, 4096))
    reader: str = option(
        "auto",
        "auto, io_uring or pread (threads); all give the same bits.",
        check=_one_of("auto", "io_uring", "pread"),
    )
    read_depth: int | None = option(
        None,
        "Reads at a time; default: as measured on this disk, else 4.",
        check=_whole(1, 256),
        core=False,
    )
    request_bytes: int | None = option(
        None,
        "Most bytes of a read, in 4096s; 0: a tile; default: as measured.",
        check=_pages,
        core=False,
    )
    register_buffers: bool = option(
        False,
        "Pin and register memory for io_uring.",
        check=checks.flag,
    )
    direct_io: bool = option(
        True, "Bypass the page cache where the file system allows it.", check=checks.flag
    )
    warm_restart: bool = option(
        True,
        "Remember resident experts at close, read them at the next open.",
        check=checks.flag,
        core=False,
    )
    timeline: bool = option(
        False, "Record who was busy when, for `LLM.timeline`.", check=checks.flag, group=OUTPUT
    )
    verbose: bool = option(
        False,
        "Print backend and memory split to stderr.",
        check=checks.flag,
        core=False,
        group=OUTPUT,
    )

    def __post_init__(self) -> None:
        """Check every field, and store it as a plain Python value."""
        check_fields(self)
        if self.experts_resident is not None and self.memory != "auto":
            raise ValueError("memory and experts_resident exclude each other: give one of them")

    def for_core(self) -> dict[str, Any]:
        """What the compiled core is given as it is, by name; sizes in bytes."""
        found: dict[str, Any] = {}
        for each in dataclasses.fields(self):
            if each.metadata["core"]:
                value = getattr(self, each.name)
                given = value is not None
                found[each.name] = (
                    each.metadata["check"](each.name, value) if given else each.metadata["unset"]
                )
        return found


def check_fields(made: Any) -> None:
    """Check the fields of a frozen dataclass of `option`s, and store them as plain Python values.

    Raises:
        TypeError, ValueError: a field of a wrong type, or out of its range; the message names it.
    """
    for each in dataclasses.fields(made):
        value = getattr(made, each.name)
        if value is None and each.default is None:
            continue
        plain = each.metadata["check"](each.name, value)
        if not isinstance(value, str):  # a size stays as it was written
            object.__setattr__(made, each.name, plain)


def describe() -> str:
    """All settings with default and help, as the `Args` of a docstring."""
    rows = (f"{f.name}: {f.metadata['help']} ({f.default!r})" for f in dataclasses.fields(Settings))
    return "\n".join(f"    {row}" for row in rows)


def takes_settings(
    settings: Callable[P, Settings],
) -> Callable[
    [Callable[[T, PathLike, Settings], None]], Callable[Concatenate[T, PathLike, P], None]
]:
    """Give an `__init__(self, path, settings)` the settings' own parameters, types included.

    Raises, when called:
        TypeError: an argument that is no setting; the message lists the settings.
    """

    def decorate(
        init: Callable[[T, PathLike, Settings], None],
    ) -> Callable[Concatenate[T, PathLike, P], None]:
        own = list(inspect.signature(init).parameters.values())[:2]
        known = list(inspect.signature(settings).parameters.values())
        signature = inspect.Signature([*own, *known])

        @functools.wraps(init)
        def wrapper(self: T, path: PathLike, *args: P.args, **kwargs: P.kwargs) -> None:
            unknown = [name for name in kwargs if name not in signature.parameters]
            if unknown:
                names = ", ".join(parameter.name for parameter in known)
                raise TypeError(f"{unknown[0]!r} is not a setting; the settings are: {names}")
            init(self, checks.path("path", path), settings(*args, **kwargs))

        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        return wrapper  # type: ignore[return-value]

    return decorate
