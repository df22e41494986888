# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver and TensorRT libraries of this machine, asked without linking to them."""

import ctypes
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

_log = logging.getLogger("adapmoe")

LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10")  # that arithmetic="tensorrt" can use
_PACKAGE = "tensorrt_libs"
_MAJOR, _MINOR, _INTEGRATED, _MULTIPROCESSORS = 75, 76, 18, 16  # CU_DEVICE_ATTRIBUTE_...


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        capability: its compute capability, such as "8.7".
        memory_bytes: the GPU's memory; the machine's if the GPU is integrated.
        integrated: whether it shares memory with the CPU.
    """

    name: str
    capability: str
    memory_bytes: int
    integrated: bool
    multiprocessors: int


@dataclass(frozen=True)
class Driver:
    """A working driver: the newest CUDA it can run, such as "12.6", and its devices."""

    version: str
    devices: list[Device]


class DriverError(Exception):
    """The driver is installed, but a call to it failed; the message says which."""


def ask_driver(library: Any) -> Driver:
    """Initialise the driver and list its devices, without creating a context.

    Raises:
        DriverError: a call failed.
    """
    _call(library, "cuInit", 0)
    version, count = ctypes.c_int(), ctypes.c_int()
    _call(library, "cuDriverGetVersion", ctypes.byref(version))
    _call(library, "cuDeviceGetCount", ctypes.byref(count))
    devices = [_device(library, index) for index in range(count.value)]
    return Driver(f"{version.value // 1000}.{version.value % 1000 // 10}", devices)


def _device(library: Any, index: int) -> Device:
    handle = ctypes.c_int()
    _call(library, "cuDeviceGet", ctypes.byref(handle), index)
    name = ctypes.create_string_buffer(256)
    _call(library, "cuDeviceGetName", name, len(name), handle)
    memory = ctypes.c_size_t()
    _call(library, "cuDeviceTotalMem_v2", ctypes.byref(memory), handle)
    major, minor, integrated, multiprocessors = (
        _attribute(library, attribute, handle)
        for attribute in (_MAJOR, _MINOR, _INTEGRATED, _MULTIPROCESSORS)
    )
    return Device(
        name=name.value.decode(),
        capability=f"{major}.{minor}",
        memory_bytes=memory.value,
        integrated=integrated == 1,
        multiprocessors=multiprocessors,
    )


def _attribute(library: Any, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _call(library, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    return value.value


def _call(library: Any, name: str, *arguments: Any) -> None:
    function = getattr(library, name, None)
    if function is None:
        raise DriverError(f"it has no function {name}")
    result = function(*arguments)
    if result != 0:
        raise DriverError(f"{name} returned {result}")


class DeviceModel(Struct, frozen=True, forbid_unknown_fields=True):
    """Tells apart devices of the same compute capability, such as an AGX Orin and an Orin Nano."""

    name: str  # as the driver calls it, such as "Orin"
    multiprocessors: Annotated[int, Meta(ge=1)]

    def __str__(self) -> str:
        """For messages."""
        return f"{self.name} with {self.multiprocessors} multiprocessors"


@dataclass(frozen=True)
class CudaDevice:
    """A GPU that engines are built for."""

    target: str  # its compute capability, such as "sm_87"
    model: DeviceModel


def find_device() -> CudaDevice | None:
    """The first device; None if there is no driver or no device."""
    try:
        devices = ask_driver(ctypes.CDLL("libcuda.so.1")).devices
    except (OSError, DriverError):
        return None
    if not devices:
        return None
    first = devices[0]
    target = f"sm_{first.capability.replace('.', '')}"
    return CudaDevice(target, DeviceModel(first.name, first.multiprocessors))


def packaged_library(name: str) -> Path | None:
    """Where the pip package has the library `name`; None if it has not. Imports nothing."""
    spec = find_spec(_PACKAGE)
    folders = (spec and spec.submodule_search_locations) or []
    return next((path for folder in folders if (path := Path(folder, name)).is_file()), None)


def load_packaged_tensorrt() -> None:
    """Load TensorRT from the pip package, so that the core, which loads it by name, gets the same.

    The package takes precedence over the system's library, as it does for `import tensorrt`, which
    builds the engines.
    """
    for path in filter(None, map(packaged_library, LIBRARIES)):
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            _log.warning("TensorRT cannot be loaded: %s", error)
