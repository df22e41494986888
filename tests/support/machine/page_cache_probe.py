# SPDX-License-Identifier: Apache-2.0
"""Run as a program in a memory cgroup: what is available as the page cache fills, and whether it
can really be used. Prints JSON, in MiB.

Usage: page_cache_probe.py PACK FILE (larger than the limit; not in the page cache)
"""

import ctypes
import json
import mmap
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from adapmoe import LLM, _core
from adapmoe.errors import BudgetError

MIB = 1 << 20
KEPT = 40 * MIB


def available():
    return _core.available_memory() / MIB


def read(path, most):
    with Path(path).open("rb", buffering=0) as file:
        while most > 0 and (data := file.read(min(MIB, most))):
            most -= len(data)


def with_shared_memory():
    """Pages of a tmpfs are no cache: without swap they stay."""
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.write(b"x" * KEPT)
        file.flush()
        return available()


def with_locked_pages(path):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mlock.argtypes = libc.munlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), KEPT, mmap.MAP_PRIVATE) as mapping:
        address = np.frombuffer(mapping, np.uint8).ctypes.data
        if libc.mlock(address, KEPT):
            raise OSError("mlock")
        found = available()
        libc.munlock(address, KEPT)
    return found


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def work(pack):
    """Fill what memory="auto" reserves."""
    before = resident()
    with LLM(pack, max_context=512, prefetch=0, warm_restart=False) as llm:
        split = llm.memory_split
        found = {
            "ceiling": split.memory_bytes / MIB,
            "reserved": (split.dense_bytes + split.expert_bytes) / MIB,
            "everything": split.frames_total * split.tile_bytes / MIB,
        }
        try:  # nothing of what is reserved has been touched yet
            llm.set_memory(round(1.5 * split.memory_bytes))
            found["refusal"] = ""
        except BudgetError as error:
            found["refusal"] = str(error)
        llm.set_memory(split.memory_bytes)
        rng = np.random.default_rng(0)
        with llm.new_sequence() as sequence:
            for _ in range(3):
                sequence.reset()
                sequence.prefill(rng.integers(0, llm.vocab_size, 256).astype(np.int32))
        found["grown"] = (resident() - before) / MIB
    return found


def main():
    pack, path = sys.argv[1:]
    LLM(pack, experts_resident=0.1, max_context=16, warm_restart=False).close()  # what it loads
    report = {"empty": available()}
    for _ in range(3):
        read(path, 60 * MIB)  # again and again: the kernel calls it active
    report["read again"] = available()
    read(path, 1 << 40)
    report["full"] = available()
    report["shared memory"] = with_shared_memory()
    report["locked"] = with_locked_pages(path)
    report["in the end"] = available()
    print(json.dumps(report | work(pack)))


if __name__ == "__main__":
    main()
