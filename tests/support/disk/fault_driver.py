# SPDX-License-Identifier: Apache-2.0
"""Run as a program under fault_shim.c: works on a pack and meets a fault in every phase.

Prints as JSON what the caller saw and whether the next request was right.

Usage: fault_driver.py FAULT READER PACK [OTHER_PACK]
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from adapmoe import LLM
from support.disk.faults import (
    DELAY,
    ERROR,
    FLIP,
    SHORT_HALF,
    SHORT_SECTOR,
    FileFault,
    ReadFault,
    ReplacedPack,
    Shim,
    overwrite,
    truncate,
)

PROMPT = np.arange(3, 27, dtype=np.int32)
TOKEN = 5


def fault_of(name, pack, other):
    shim = Shim(os.environ["FAULT_CONTROL"])
    return {
        "none": lambda: ReadFault(shim, 0),
        "eio-once": lambda: ReadFault(shim, ERROR, count=1),
        "eio-forever": lambda: ReadFault(shim, ERROR),
        "short-half": lambda: ReadFault(shim, SHORT_HALF),
        "short-512-twice": lambda: ReadFault(shim, SHORT_SECTOR, count=2),
        "short-512-forever": lambda: ReadFault(shim, SHORT_SECTOR),
        "flip": lambda: ReadFault(shim, FLIP),
        "slow": lambda: ReadFault(shim, DELAY, delay_ms=200),
        "truncated": lambda: FileFault(pack, truncate),
        "overwritten": lambda: FileFault(pack, overwrite),
        "replaced": lambda: ReplacedPack(pack, other),
    }[name]()


class Driver:
    """One pack, one fault, and what work without the fault gives."""

    def __init__(self, fault_name, reader, pack, other):
        self.pack = pack
        self.reader = reader
        self.slow = fault_name == "slow"
        self.fault = fault_of(fault_name, pack, other)
        with self.open() as llm, llm.new_sequence() as seq:
            self.prefilled = seq.prefill(PROMPT)
            self.decoded = seq.decode(TOKEN)
            used = llm.reader
        digest = hashlib.sha256(self.prefilled.tobytes() + self.decoded.tobytes())
        self.report = {"bits": digest.hexdigest(), "reader": used}

    def open(self):
        # The floor: nearly every expert is read again.
        floor = {"max_context": 64, "experts_resident": 0.01}
        return LLM(self.pack, **floor, threads=1, reader=self.reader, read_depth=2)

    def attempt(self, file, work, seq=None):
        """What `work` does under the fault; with a slow disk, Ctrl-C comes after 0.5 s."""
        length = seq.length if seq else 0
        self.fault.apply(file)
        begin = time.monotonic()
        seen = {"error": None}
        if self.slow:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            seen["value"] = work()
            if self.slow:
                time.sleep(5)  # the signal must find somebody
        except BaseException as error:
            seen |= {"error": type(error).__name__, "message": str(error)}
        seen["seconds"] = time.monotonic() - begin
        if seen["error"] and seq:
            seen["length_unchanged"] = seq.length == length
        seen["happened"] = self.fault.happened
        time.sleep(0.2)  # reads of the failed step that are under way end while the fault lasts
        self.fault.lift()
        return seen

    def check(self, seen, work, expected):
        """Compares what was seen, and a next request, with what is right."""
        value = seen.pop("value", None)
        seen["same_bits"] = value is not None and np.array_equal(value, expected)
        seen["next_request_right"] = np.array_equal(work(), expected)
        return seen

    def rewind(self, seq):
        seq.reset()
        seq.prefill(PROMPT)

    def prefill_once(self):
        with self.open() as llm, llm.new_sequence() as seq:
            return seq.prefill(PROMPT)

    def phase_open(self):
        seen = self.attempt("dense.safetensors", self.prefill_once)
        return self.check(seen, self.prefill_once, self.prefilled)

    def phase_prefill(self, seq):
        def work():
            seq.reset()
            return seq.prefill(PROMPT)

        return self.check(self.attempt("experts.safetensors", work, seq), work, self.prefilled)

    def phase_decode(self, seq):
        self.rewind(seq)
        seen = self.attempt("experts.safetensors", lambda: seq.decode(TOKEN), seq)
        if not seen["error"]:
            self.rewind(seq)
        return self.check(seen, lambda: seq.decode(TOKEN), self.decoded)

    def phase_idle(self, seq):
        """The fault comes and goes between two requests."""
        self.rewind(seq)
        self.fault.apply("experts.safetensors")
        time.sleep(0.05)
        self.fault.lift()
        return {"next_request_right": np.array_equal(seq.decode(TOKEN), self.decoded)}

    def run(self):
        self.report["open"] = self.phase_open()
        with self.open() as llm, llm.new_sequence() as seq:
            self.report["prefill"] = self.phase_prefill(seq)
            self.report["decode"] = self.phase_decode(seq)
            self.report["idle"] = self.phase_idle(seq)
        return self.report


def main():
    fault, reader, *packs = sys.argv[1:]
    driver = Driver(fault, reader, Path(packs[0]), Path(packs[-1]))
    print(json.dumps(driver.run()))


if __name__ == "__main__":
    main()
