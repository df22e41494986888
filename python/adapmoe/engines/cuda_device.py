# SPDX-License-Identifier: Apache-2.0
"""The CUDA device of this machine, asked through the driver alone."""

import ctypes
from dataclasses import dataclass

from adapmoe.doctor.cuda_driver import DriverError, ask_driver


@dataclass(frozen=True)
class DeviceModel:
    """What tells devices of one compute capability apart: an AGX Orin from an Orin Nano."""

    name: str  # the driver's, such as "Orin"
    multiprocessors: int

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
