# SPDX-License-Identifier: Apache-2.0
"""Run as a program: opens a pack, works, and prints how much this process grew as JSON.

Usage: memory_probe.py PACK MEMORY_BYTES (0: no ceiling)
"""

import json
import sys
from pathlib import Path

import numpy as np

from adapmoe import LLM


def status_bytes(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def main():
    pack, memory = sys.argv[1], int(sys.argv[2])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = status_bytes("VmRSS")  # anonymous, file-backed and shared pages
    with LLM(pack, memory=memory or "auto", max_context=512) as llm:
        rng = np.random.default_rng(0)
        with llm.new_sequence() as seq:
            seq.prefill(rng.integers(0, llm.vocab_size, 256).astype(np.int32))
            for token in rng.integers(0, llm.vocab_size, 40):
                seq.decode(int(token))
        report = {
            "growth": status_bytes("VmHWM") - before,
            "floor": llm.memory_split.floor_bytes,
            "experts": llm.memory_split.frames_total * llm.memory_split.tile_bytes,
            "bytes_read": llm.stats.bytes_read,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
