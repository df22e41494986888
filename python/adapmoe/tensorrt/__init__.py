# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines of a pack's experts: built from its ONNX models, recorded, read back checked.

A plan is machine code that TensorRT believes. So one is deserialised only if engines.json lists its
SHA-256, and only by the library version and on the devices that it was built for.
"""

from adapmoe.machine.cuda import CudaDevice, DeviceModel
from adapmoe.tensorrt.build import BuildSummary, build_engines
from adapmoe.tensorrt.records import EngineRecord, EngineRecords, read_engine_records

__all__ = [
    "BuildSummary",
    "CudaDevice",
    "DeviceModel",
    "EngineRecord",
    "EngineRecords",
    "build_engines",
    "read_engine_records",
]
