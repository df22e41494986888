# SPDX-License-Identifier: Apache-2.0
"""What a server takes in all: the limit of the control group that it runs in."""

# What `adapmoe serve` takes besides its ceiling. Measured: at most 600 MB, with as many bodies at a
# time as it takes, of the size and kind that need most (planning/README.md). 128 MiB are to stay
# free, because below that a server gives memory back; the rest is for tokenizers of 100,000 tokens.
SERVER_BYTES = 1 << 30


def memory_max(memory_bytes: int) -> int:
    """`MemoryMax=` of a unit that serves with this ceiling, in bytes."""
    return memory_bytes + SERVER_BYTES
