# SPDX-License-Identifier: Apache-2.0
"""Damage as disks, copies and people do it: no checksum is made to fit.

Each function returns `mutate(pack, rng, bases)`: change the copy at `pack`, drawing from `rng`;
`bases` is the folder of the undamaged packs.
"""

import os
import shutil
import struct


def truncate(file):
    def mutate(pack, rng, bases):
        os.truncate(pack / file, rng.randrange((pack / file).stat().st_size))

    return mutate


def flip(file):
    def mutate(pack, rng, bases):
        data = bytearray((pack / file).read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (pack / file).write_bytes(data)

    return mutate


def extend(file, amount):
    def mutate(pack, rng, bases):
        size = (pack / file).stat().st_size
        os.truncate(pack / file, size + amount)

    return mutate


def become(file, kind):
    """The file is gone, or something else stands in its place."""

    def mutate(pack, rng, bases):
        path = pack / file
        path.unlink()
        if kind == "empty":
            path.touch()
        elif kind == "directory":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind != "missing":
            path.symlink_to({"loop": path, "dangling": "nowhere", "device": "/dev/zero"}[kind])

    return mutate


def swap_within(one, other):
    def mutate(pack, rng, bases):
        (pack / one).rename(pack / "aside")
        (pack / other).rename(pack / one)
        (pack / "aside").rename(pack / other)

    return mutate


def take_from(other, file):
    def mutate(pack, rng, bases):
        shutil.copyfile(bases / other / file, pack / file)

    return mutate


def header_length(file, length):
    def mutate(pack, rng, bases):
        with (pack / file).open("r+b") as opened:
            opened.write(struct.pack("<Q", length % 2**64))

    return mutate
