# SPDX-License-Identifier: Apache-2.0
"""Run as a program: works on a pack inside a memory cgroup (v1) and prints what happened as JSON.

The limit is what the process uses before it opens the pack, plus `memory`, plus 64 MiB.

Usage: cgroup_probe.py PACK CGROUP_DIRECTORY
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from adapmoe import LLM
from adapmoe.errors import BudgetError

SLACK = 64 << 20


def floor_of(pack):
    with LLM(pack, max_context=512) as llm:
        return llm.memory_split


def work(llm):
    with llm.new_sequence() as seq:
        seq.prefill(np.arange(256, dtype=np.int32))
        for token in range(20):
            seq.decode(token)
    return llm.stats.bytes_read


def main():
    pack, group = sys.argv[1], Path(sys.argv[2])
    home = Path("/sys/fs/cgroup/memory/cgroup.procs")
    split = floor_of(pack)
    memory = split.floor_bytes + (split.frames_total * split.tile_bytes) // 4
    (group / "cgroup.procs").write_text(str(os.getpid()))
    baseline = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    limit = baseline + memory + SLACK
    (group / "memory.limit_in_bytes").write_text(str(limit))
    report = {"memory": memory, "limit": limit}
    with LLM(pack, memory=memory, max_context=512) as llm:
        report["bytes_read"] = work(llm)
    try:
        LLM(pack, experts_resident=1.0, max_context=512, max_sequences=64).close()
        report["refusal"] = ""
    except BudgetError as error:
        report["refusal"] = str(error)
    report["largest_usage"] = int((group / "memory.max_usage_in_bytes").read_text())
    home.write_text(str(os.getpid()))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
