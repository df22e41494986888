# SPDX-License-Identifier: Apache-2.0
"""Run as a program: opens a pack at its floor, says "ready", and runs steps until it is killed.

Usage: step_forever.py PACK [--write-nothing] (no file may be written: each attempt fails)
"""

import errno
import resource
import signal
import sys
import tempfile

import numpy as np

from adapmoe import LLM


def forbid_writing():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with tempfile.TemporaryFile(buffering=0) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        try:
            file.write(b"x")
        except OSError as error:
            if error.errno == errno.EFBIG:
                return
    raise AssertionError("a file could be written")


def main():
    if "--write-nothing" in sys.argv:
        forbid_writing()
    llm = LLM(sys.argv[1], max_context=64, experts_resident=0.01, threads=1)
    seq = llm.new_sequence()
    print("ready", flush=True)
    while True:
        seq.prefill(np.arange(3, 27, dtype=np.int32))
        seq.reset()
        print("stepped", flush=True)


if __name__ == "__main__":
    main()
