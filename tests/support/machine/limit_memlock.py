# SPDX-License-Identifier: Apache-2.0
"""Opens a pack with registered buffers where only little memory may be locked.

Usage: limit_memlock.py PACK BYTES; prints as JSON what is registered after two tokens.
"""

import ctypes
import json
import platform
import resource
import struct
import sys
from pathlib import Path

from adapmoe import LLM, SamplingParams

_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_VERSION_3 = 0x20080522
_CAP_IPC_LOCK = 14


def give_up_ipc_lock():
    """Root may lock without a limit; give that up."""
    libc = ctypes.CDLL(None, use_errno=True)
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    keep = [
        int(status[name], 16) & ~(1 << _CAP_IPC_LOCK) for name in ("CapEff", "CapPrm", "CapInh")
    ]
    low = [mask & 0xFFFFFFFF for mask in keep]
    high = [mask >> 32 for mask in keep]
    header, data = struct.pack("Ii", _VERSION_3, 0), struct.pack("6I", *low, *high)
    if libc.syscall(_SYS_CAPSET[platform.machine()], header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def main():
    pack, limit = sys.argv[1], int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    give_up_ipc_lock()
    with LLM(pack, max_context=64, reader="io_uring", register_buffers=True) as llm:
        text = llm.generate("The", SamplingParams(max_tokens=2)).text
        print(json.dumps({"reader": llm.reader, "registration": llm.registration, "text": text}))


if __name__ == "__main__":
    main()
