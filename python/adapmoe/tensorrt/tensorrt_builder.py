# SPDX-License-Identifier: Apache-2.0
"""TensorRT: builds for the device of this machine, on which it times its kernels."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from adapmoe.errors import BackendUnavailableError, EngineError
from adapmoe.machine.cuda import CudaDevice, DeviceModel, find_device
from adapmoe.machine.files import replace_file
from adapmoe.tensorrt.builders import build_plan


class TensorRtBuilder:
    """See EngineBuilder."""

    name: ClassVar[str] = "tensorrt"
    parallel: ClassVar[bool] = False
    working_bytes: ClassVar[int] = 4 << 30
    # It dequantises no blocks of int8: NvInfer.h, IDequantizeLayer.
    dtypes: ClassVar[tuple[str, ...]] = ("int4", "f16", "f32")

    def __init__(self) -> None:
        """Import the library."""
        self._trt: Any = importlib.import_module(self.name)
        self._device: CudaDevice | None = find_device()

    @property
    def version(self) -> str:
        """Of the library."""
        return str(self._trt.__version__)

    @property
    def device(self) -> DeviceModel | None:
        """The one of this machine: kernels are chosen by their times on it."""
        return self._device.model if self._device else None

    def choose_targets(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The device of this machine. Raises EngineError for any other."""
        if self._device is None:
            raise BackendUnavailableError(
                "tensorrt builds on a CUDA device, and there is none here; run this on the device, "
                "or use --builder tensorrt_rtx"
            )
        device = self._device.target
        if any(target != device for target in wanted):
            raise EngineError(
                f"tensorrt builds for the device that it runs on, {device}, not for "
                f"{', '.join(wanted)}; run this on that device"
            )
        return (device,)

    def build(
        self, onnx: Path, targets: Sequence[str], timing_cache: Path, workspace_bytes: int
    ) -> memoryview:
        """The plan, with the help of what was timed before."""
        configs: list[Any] = []

        def configure(config: Any) -> None:
            configs.append(config)
            config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, workspace_bytes)
            self._load_timings(config, timing_cache)

        plan = build_plan(self._trt, onnx, configure)
        timings = configs[0].get_timing_cache()
        if timings is not None:
            replace_file(timing_cache, bytes(timings.serialize()))
        return plan

    def _load_timings(self, config: Any, path: Path) -> None:
        """Those in the file, or none if it is not there or from another device or version."""
        data = path.read_bytes() if path.is_file() else b""
        for timings in (data, b""):
            cache = config.create_timing_cache(timings)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return
