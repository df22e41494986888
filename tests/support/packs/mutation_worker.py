# SPDX-License-Identifier: Apache-2.0
"""Run as a program: opens mutated packs one after another, prints what came of each as JSON.

A line "begin N" precedes each case, so that a crash has a number.
Usage: mutation_worker.py BASES_DIRECTORY WORK_DIRECTORY FIRST STEP
"""

import faulthandler
import hashlib
import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np

from adapmoe import LLM
from support.machine.memory_probe import status_bytes
from support.packs.pack_mutations import BASES, apply, make_cases

MEMORY = 4 << 20
HANG_S = 20
IDS = np.arange(3, 11, dtype=np.int32)


def use(pack):
    """Open, prefill, decode, tokenize. Returns a digest of the logits and the token ids."""
    with LLM(pack, memory=MEMORY, threads=1, read_depth=1, prefill_chunk=16) as llm:
        with llm.new_sequence() as seq:
            digest = hashlib.sha256(seq.prefill(IDS).tobytes() + seq.decode(2).tobytes())
        digest.update(str(llm.tokenizer.encode("abc")).encode())
    return digest.hexdigest()


def run(index, case, bases, pack, baseline):
    apply(case, index, pack, bases)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    seen = {"index": index, "error": None}
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        seen["digest"] = use(pack)
    except BaseException as error:
        seen |= {"error": type(error).__name__, "message": str(error)}
    faulthandler.cancel_dump_traceback_later()
    seen["growth"] = status_bytes("VmHWM") - baseline
    shutil.rmtree(pack)
    return seen


def main():
    bases, work = Path(sys.argv[1]), Path(sys.argv[2])
    first, step = int(sys.argv[3]), int(sys.argv[4])
    logging.disable(logging.WARNING)
    right = {base: use(bases / base) for base in BASES}
    baseline = status_bytes("VmRSS")
    cases = make_cases()
    for index in range(first, len(cases), step):
        print(f"begin {index}", flush=True)
        seen = run(index, cases[index], bases, work / f"{index}.adapmoe", baseline)
        seen["right"] = seen.get("digest") == right[cases[index].base]
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
