# SPDX-License-Identifier: Apache-2.0
"""Thousands of ways in which a pack can be wrong, as a fixed list of cases.

A case changes a fresh copy of one of BASES. `forged` cases have right checksums, as somebody who
means harm would write them: they may run and give other logits than the pack they were made from.
"""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.packs.manifest_forgeries import (
    NAMES,
    RAW_TEXTS,
    forge_field,
    forge_name,
    raw_manifest,
    unlist,
)
from support.packs.pack_damage import (
    become,
    extend,
    flip,
    header_length,
    swap_within,
    take_from,
    truncate,
)
from support.packs.weight_forgeries import (
    FILLS,
    HEADER_CHANGES,
    forge_data,
    forge_header,
    forge_longer,
)

# experts, dense
BASES = {
    "int4-int8": ("int4", "int8"),
    "int8-f16": ("int8", "f16"),
    "f16-f32": ("f16", "f32"),
}
WEIGHTS = ("dense.safetensors", "experts.safetensors")
SMALL = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
FILES = ("manifest.json", *WEIGHTS, *SMALL)


@dataclass(frozen=True)
class Case:
    name: str
    base: str
    mutate: Callable  # (pack, random.Random, all base packs) -> None
    forged: bool = False


def make_cases() -> list[Case]:
    """All cases, always the same."""
    cases = []
    for base in BASES:

        def add(name, mutate, forged=False, times=1, base=base):
            cases.extend([Case(name, base, mutate, forged)] * times)

        for file in FILES:
            heavy = file in WEIGHTS or file == "manifest.json"
            add(f"truncate {file}", truncate(file), times=25 if heavy else 5)
            add(f"flip {file}", flip(file), times=90 if heavy else 15)
            for amount in (1, 4096, 1 << 40):
                add(f"extend {file} {amount}", extend(file, amount))
            for kind in ("missing", "empty", "directory", "fifo", "loop", "dangling", "device"):
                add(f"{kind} {file}", become(file, kind))
            for other in (*(set(BASES) - {base}), f"{base}-other"):
                add(f"{file} of {other}", take_from(other, file))
        for one, other in (WEIGHTS, SMALL[:2], ("manifest.json", "dense.safetensors")):
            add(f"swap {one} {other}", swap_within(one, other))
        for file in (*WEIGHTS, *SMALL):
            for kind in ("file", "fifo", "directory"):
                add(f"unlist {file} {kind}", unlist(file, kind), forged=True)
        add("forge field", forge_field(), forged=True, times=230)
        for name in NAMES:
            for place in ("files", "dense", "experts"):
                add(f"name {place} {name[:20]!r}", forge_name(name, place), forged=True)
        for name, write in RAW_TEXTS.items():
            add(f"manifest {name}", raw_manifest(write), forged=True)
        for file in WEIGHTS:
            for length in (0, 1, 2, 7, 2**31, 2**32, 2**62, 2**63, -8, -9, -1, 10**8, 10**6):
                add(f"header length {file} {length}", header_length(file, length))
            for name, change in HEADER_CHANGES.items():
                add(f"header {file} {name}", forge_header(file, change), forged=True)
            add(f"longer {file}", forge_longer(file), forged=True, times=4)
        for name, fill in FILLS.items():
            add(f"data {name}", forge_data(fill), forged=True, times=3)
    return cases


def apply(case: Case, index: int, pack: Path, bases: Path) -> None:
    """Put a copy of the base at `pack` and change it."""
    shutil.copytree(bases / case.base, pack)
    case.mutate(pack, random.Random(index), bases)
