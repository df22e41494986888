# SPDX-License-Identifier: Apache-2.0
"""What the CUDA driver says, asked through its C interface. Nothing is linked against it."""

import ctypes
from dataclasses import dataclass
from typing import Any

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


def ask_driver(library: Any) -> Driver:  # noqa: ANN401 - libcuda, or a test's stand-in
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


def _device(library: Any, index: int) -> Device:  # noqa: ANN401
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


def _attribute(library: Any, attribute: int, device: ctypes.c_int) -> int:  # noqa: ANN401
    value = ctypes.c_int()
    _call(library, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    return value.value


def _call(library: Any, name: str, *arguments: Any) -> None:  # noqa: ANN401
    function = getattr(library, name, None)
    if function is None:
        raise DriverError(f"it has no function {name}")
    result = function(*arguments)
    if result != 0:
        raise DriverError(f"{name} returned {result}")
