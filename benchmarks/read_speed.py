# SPDX-License-Identifier: Apache-2.0
"""Random experts, two outstanding, through the expert cache: each reader's speed and CPU time.

Reads go to frames in memory and are checked, as in a step; nothing is computed. Settings take
turns, every other round backwards, and the median of the rounds is printed. Needs
`adapmoe._testing`.

Usage: read_speed.py PACK [--readers 1,2,4,8] [--verify always] [--experts 24] [--rounds 5]
"""

import argparse
import random
import resource
import time
from itertools import product
from pathlib import Path
from statistics import median

from adapmoe import _testing
from adapmoe.pack.manifest import Manifest

REGISTERED = " registered"  # buffers and file
READERS = ("pread", "io_uring", "io_uring" + REGISTERED)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--readers", default="1,2,4,8", help="reads at the same time")
    parser.add_argument("--verify", default="always", help="always or never")
    parser.add_argument("--experts", type=int, default=24, help="per setting and round")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def cpu_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def read(rig, ids, last_tile):
    """Two experts are on their way at any time; waits for each in turn."""
    holds = []
    for layer, expert in ids:
        holds.append(rig.acquire(layer, expert))
        if len(holds) == 2:
            hold = holds.pop(0)
            hold.tile(last_tile)
            hold.release()
    for hold in holds:
        hold.tile(last_tile)


def measure(args, experts, ids, reader, readers):
    """(bytes per second, CPU seconds per GB)"""
    rig = _testing.CacheRig(
        str(args.pack),
        frames=2 * experts.tiles,
        reader=reader.removesuffix(REGISTERED),
        readers=readers,
        registered=reader.endswith(REGISTERED),
        verify=args.verify,
        direct_io=True,
    )
    if rig.reader_name != reader.removesuffix(REGISTERED):
        raise SystemExit(f"{reader} cannot be used here")
    read(rig, ids[:2], experts.tiles - 1)  # touches the frames
    before, begin = cpu_s(), time.perf_counter()
    read(rig, ids[2:], experts.tiles - 1)
    wall = time.perf_counter() - begin
    if rig.registration[2]:
        raise SystemExit(rig.registration[2])
    total = experts.expert_bytes * (len(ids) - 2)
    return total / wall, (cpu_s() - before) / total * 1e9


def main():
    args = arguments()
    manifest = Manifest.read(args.pack)
    experts, everything = manifest.experts, manifest.expert_ids
    settings = list(product(READERS, map(int, args.readers.split(","))))
    results = {setting: [] for setting in settings}
    rng = random.Random(1)
    for number in range(args.rounds):
        for setting in settings if number % 2 == 0 else settings[::-1]:
            ids = rng.sample(everything, min(args.experts, len(everything)))
            results[setting].append(measure(args, experts, ids, *setting))
    print(f"verify={args.verify}, {args.rounds} rounds of {args.experts - 2} experts")
    for (reader, readers), runs in results.items():
        speeds, costs = zip(*runs, strict=True)
        print(
            f"{reader:19} {readers:2}: median {median(speeds) / 1e9:.2f} GB/s "
            f"({min(speeds) / 1e9:.2f} to {max(speeds) / 1e9:.2f}), "
            f"{median(costs):.3f} s of CPU per GB"
        )


if __name__ == "__main__":
    main()
