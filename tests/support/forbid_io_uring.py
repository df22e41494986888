# SPDX-License-Identifier: Apache-2.0
"""Makes io_uring_setup fail with EPERM in this process, as the default profile of containers does.

Usage: forbid_io_uring.py PACK READER; prints as JSON which reader LLM uses then, and its notes.
"""

import ctypes
import errno
import json
import struct
import sys

_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_IO_URING_SETUP = 425  # on every architecture


def _instruction(code, if_true, if_false, value):
    return struct.pack("HBBI", code, if_true, if_false, value)


def forbid_io_uring():
    program = b"".join(
        [
            _instruction(_LOAD_WORD, 0, 0, 0),  # the number of the system call
            _instruction(_JUMP_IF_EQUAL, 0, 1, _IO_URING_SETUP),
            _instruction(_RETURN, 0, 0, _ERRNO | errno.EPERM),
            _instruction(_RETURN, 0, 0, _ALLOW),
        ]
    )
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    for request in ((_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_SET_SECCOMP, _MODE_FILTER, filter_, 0, 0)):
        if libc.prctl(*request) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def main():
    from adapmoe import LLM

    forbid_io_uring()
    pack, reader = sys.argv[1:]
    with LLM(pack, max_context=64, reader=reader) as llm:
        print(json.dumps({"reader": llm.reader, "notes": llm._session.notes}))


if __name__ == "__main__":
    main()
