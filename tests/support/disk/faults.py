# SPDX-License-Identifier: Apache-2.0
"""Faults of the disk and of the files, for a process that runs with fault_shim.c preloaded."""

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

NONE, ERROR, SHORT_HALF, SHORT_SECTOR, FLIP, DELAY = range(6)
_CONTROL = struct.Struct("iiii112s")
FOREVER = -1


def build_shim(folder: Path) -> Path:
    """fault_shim.c, compiled into `folder`."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc") or "clang"
    library = folder / "fault_shim.so"
    source = Path(__file__).with_name("fault_shim.c")
    subprocess.run(
        [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", source, "-o", library, "-ldl"],
        check=True,
    )
    return library


def preload(shim: Path, control: Path) -> dict[str, str]:
    """What a process under the shim has in its environment."""
    return {
        "LD_PRELOAD": " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(shim)])),
        "FAULT_CONTROL": str(control),
    }


def make_control(path: Path) -> Path:
    """The file that a process maps to steer its own shim; its path goes into FAULT_CONTROL."""
    path.write_bytes(bytes(_CONTROL.size))
    return path


class Shim:
    """The control file of this process, or of a child, mapped."""

    def __init__(self, path):
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _CONTROL.size)

    def set(self, mode, count=FOREVER, delay_ms=0, suffix="experts.safetensors"):
        # The mode is written last: a reader thread sees a fault that is complete.
        self._map[4:] = _CONTROL.pack(NONE, count, delay_ms, 0, suffix.encode())[4:]
        self._map[0:4] = struct.pack("i", mode)

    def clear(self):
        self._map[0:4] = struct.pack("i", NONE)

    @property
    def spoiled(self):
        return struct.unpack_from("i", self._map, 12)[0]


class ReadFault:
    """A fault of the disk: every read of a file of the pack, or the first `count`, are spoiled."""

    def __init__(self, shim, mode, count=FOREVER, delay_ms=0):
        self._shim = shim
        self._settings = (mode, count, delay_ms)

    def apply(self, file):
        self._shim.set(*self._settings, suffix=file)

    def lift(self):
        self._shim.clear()

    @property
    def happened(self):
        return self._shim.spoiled > 0


class FileFault:
    """A file is changed in place, its inode kept, and restored when lifted."""

    happened = True

    def __init__(self, pack, damage):
        self._pack = pack
        self._damage = damage
        self._path = None

    def apply(self, file):
        self._path = self._pack / file
        self._whole = self._path.read_bytes()
        with self._path.open("r+b") as opened:
            self._damage(opened, len(self._whole))
            os.fsync(opened.fileno())

    def lift(self):
        with self._path.open("r+b") as opened:
            opened.write(self._whole)
            os.fsync(opened.fileno())


def truncate(file, size):
    file.truncate(size // 3 // 4096 * 4096)


def overwrite(file, size):
    """Everything behind the header is inverted."""
    begin = 8 + struct.unpack("<Q", file.read(8))[0]
    file.seek(begin)
    data = bytes(255 - byte for byte in file.read())
    file.seek(begin)
    file.write(data)


class ReplacedPack:
    """Another pack is put in this one's place by renaming directories."""

    happened = True

    def __init__(self, pack, other):
        self._pack, self._other = pack, other

    def apply(self, file):
        self._aside = self._pack.with_suffix(".aside")
        self._pack.rename(self._aside)
        shutil.copytree(self._other, self._pack)

    def lift(self):
        shutil.rmtree(self._pack)
        self._aside.rename(self._pack)
