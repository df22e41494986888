# SPDX-License-Identifier: Apache-2.0
"""Makes system calls of io_uring fail with EPERM in this process, as containers do.

Usage: forbid_io_uring.py PACK READER [--registering]; prints as JSON which reader LLM uses then,
its notes, and what is registered. With --registering, only buffers and files cannot be registered.
"""

import ctypes
import errno
import json
import struct
import sys

_SET_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _SECOND_ARGUMENT = 0, 24  # offsets in struct seccomp_data
_IO_URING_SETUP, _IO_URING_REGISTER = 425, 427  # on every architecture
_REGISTER_FILES, _REGISTER_BUFFERS2 = 2, 15  # operations of io_uring_register


def _instruction(code, if_true, if_false, value):
    return struct.pack("HBBI", code, if_true, if_false, value)


def _refuse_if_equal(value):
    return _instruction(_JUMP_IF_EQUAL, 0, 1, value) + _instruction(
        _RETURN, 0, 0, _ERRNO | errno.EPERM
    )


def _load(offset):
    return _instruction(_LOAD_WORD, 0, 0, offset)


def _install(program):
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    )
    libc = ctypes.CDLL(None, use_errno=True)
    for request in ((_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_SET_SECCOMP, _MODE_FILTER, filter_, 0, 0)):
        if libc.prctl(*request) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def forbid_io_uring():
    allow = _instruction(_RETURN, 0, 0, _ALLOW)
    _install(_load(_NUMBER) + _refuse_if_equal(_IO_URING_SETUP) + allow)


def forbid_registering():
    allow = _instruction(_RETURN, 0, 0, _ALLOW)
    operations = (
        _load(_SECOND_ARGUMENT)
        + _refuse_if_equal(_REGISTER_FILES)
        + _refuse_if_equal(_REGISTER_BUFFERS2)
    )
    is_register = _instruction(_JUMP_IF_EQUAL, 0, len(operations) // 8, _IO_URING_REGISTER)
    _install(_load(_NUMBER) + is_register + operations + allow)


def main():
    from adapmoe import LLM, SamplingParams

    pack, reader, *options = sys.argv[1:]
    forbid_registering() if options else forbid_io_uring()
    with LLM(pack, max_context=64, reader=reader, register_buffers=bool(options)) as llm:
        text = llm.generate("The", SamplingParams(max_tokens=2)).text if options else ""
        print(
            json.dumps(
                {
                    "reader": llm.reader,
                    "notes": llm._session.notes,
                    "registration": llm.registration,
                    "text": text,
                }
            )
        )


if __name__ == "__main__":
    main()
