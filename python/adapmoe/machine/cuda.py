# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver and TensorRT libraries of this machine, asked without linking to them."""

import ctypes
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

_MAJOR, _MINOR, _INTEGRATED, _MULTIPROCESSORS = 75, 76, 18, 16  # CU_DEVICE_ATTRIBUTE_...


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        capability: such as "8.7".
        memory_bytes: of the GPU; where it is integrated, the machine's own memory.
        integrated: shares memory with the CPU.
    """

    name: str
    capability: str
    memory_bytes: int
    integrated: bool
    multiprocessors: int


@dataclass(frozen=True)
class Driver:
    """A driver that answers: the newest CUDA it can run, such as "12.6", and its devices."""

    version: str
    devices: list[Device]


class DriverError(Exception):
    """The driver is there and refuses; the text says what it answered."""


def ask_driver(library: Any) -> Driver:
    """Initialise the driver and list its devices; no context is made.

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
    """What tells devices of one compute capability apart: an AGX Orin from an Orin Nano."""

    name: str  # the driver's, such as "Orin"
    multiprocessors: Annotated[int, Meta(ge=1)]

    def __str__(self) -> str:
        """For messages."""
        return f"{self.name} with {self.multiprocessors} multiprocessors"


@dataclass(frozen=True)
class CudaDevice:
    """A device."""

    target: str  # its compute capability, such as "sm_87"
    model: DeviceModel


def find_device() -> CudaDevice | None:
    """Device 0; None where there is no driver or no device."""
    try:
        devices = ask_driver(ctypes.CDLL("libcuda.so.1")).devices
    except (OSError, DriverError):
        return None
    if not devices:
        return None
    first = devices[0]
    target = f"sm_{first.capability.replace('.', '')}"
    return CudaDevice(target, DeviceModel(first.name, first.multiprocessors))


_log = logging.getLogger("adapmoe")

LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10")  # that arithmetic="tensorrt" can use
_PACKAGE = "tensorrt_libs"


def packaged_library(name: str) -> Path | None:
    """The library `name` in the package, which is not imported; None where there is none."""
    spec = find_spec(_PACKAGE)
    folders = (spec and spec.submodule_search_locations) or []
    return next((path for folder in folders if (path := Path(folder, name)).is_file()), None)


def load_packaged_tensorrt() -> None:
    """Load what the package has: the core, which asks by name, is then given the same library.

    It goes before a library of the system, as it does for `import tensorrt`, which builds engines.
    """
    for path in filter(None, map(packaged_library, LIBRARIES)):
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            _log.warning("TensorRT cannot be loaded: %s", error)
