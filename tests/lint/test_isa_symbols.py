# SPDX-License-Identifier: Apache-2.0
"""Objects built for one instruction set hold no code that others could be linked to.

A weak symbol in kernels_avx2.cc.o is an inline function compiled with AVX2: the linker may keep
that copy for the whole program, which then dies on a CPU without AVX2. A template over the
instruction set's own lane type is safe, because nobody else instantiates it.
"""

import shutil
import subprocess

import pytest

from support.source.source_tree import ROOT

OBJECTS = [
    path
    for build in ("test", "aarch64")
    for path in sorted((ROOT / "build" / build).rglob("kernels_*.o"))
]


def shared_code(isa, listing):
    """Defined weak functions and unique objects of `nm -C` that do not carry the name of `isa`."""
    return [
        line
        for line in listing.splitlines()
        if line[17:18] in ("W", "u") and isa.replace("_", "") not in line.lower()
    ]


def test_isa_objects_hold_no_shared_inline_code():
    objects = [path for path in OBJECTS if "scalar" not in path.name]
    if not objects:
        pytest.skip("no kernels_ISA object under build/test: run `make venv` on x86-64 or aarch64")
    nm = shutil.which("nm")
    assert nm, "nm comes with the compiler: apt-get install binutils"
    for path in objects:
        run = subprocess.run([nm, "-C", path], check=True, capture_output=True, text=True)
        assert run.stdout, path
        isa = path.name.split(".")[0].removeprefix("kernels_")
        shared = shared_code(isa, run.stdout)
        assert not shared, f"{path.name}:\n" + "\n".join(shared)


def test_the_symbol_rule_itself():
    assert shared_code("avx2", "0000000000000000 W adapmoe::align_up(long, long)")
    assert not shared_code("avx2", "0000000000000000 W adapmoe::exp<adapmoe::Avx2Lanes>(float)")
    assert not shared_code("avx2", "0000000000000000 T adapmoe::dot\n                 U memcpy\n")
