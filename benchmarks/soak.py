# SPDX-License-Identifier: Apache-2.0
"""Generate for a long time under a small ceiling.

Memory must stay flat, and every round must give the first round's tokens.

Usage: soak.py PACK [--minutes 30] [--experts-resident 0.25]
"""

import argparse
import sys
import threading
import time
from pathlib import Path

from adapmoe import LLM, SamplingParams

PROMPTS = ["The function returns", "def main():", "An error is raised when", "A list of"]


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise KeyError("VmRSS")


def one_round(llm: LLM) -> list[tuple[int, ...]]:
    """Two threads at once: greedy and sampled batches."""
    found: dict[int, list[tuple[int, ...]]] = {}

    def work(index: int) -> None:
        params = SamplingParams(max_tokens=48, temperature=0.8 * index, seed=index, ignore_eos=True)
        found[index] = [tuple(r.token_ids) for r in llm.generate(PROMPTS, params)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found[0] + found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--experts-resident", type=float, default=0.25)
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    with LLM(
        options.pack, experts_resident=options.experts_resident, max_context=256, max_sequences=4
    ) as llm:
        first = one_round(llm)
        settled = resident_bytes()
        rounds = largest = 0
        while time.monotonic() < end:
            rounds += 1
            if rounds % 10 == 0:  # the ceiling moves while running
                split = llm.memory_split
                llm.set_memory(split.floor_bytes if rounds % 20 else split.memory_bytes * 2)
            if one_round(llm) != first:
                print(f"round {rounds}: other tokens than the first round")
                return 1
            largest = max(largest, resident_bytes())
        print(
            f"{rounds} rounds, {llm.stats.tokens} tokens, "
            f"{llm.stats.bytes_read / 1e9:.1f} GB read; "
            f"resident {settled / 2**20:.1f} MiB after the first round, at most "
            f"{largest / 2**20:.1f} MiB later; all rounds gave the first round's tokens"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
