# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX: builds ahead of time without a GPU, and compiles kernels where the plan runs."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from adapmoe.errors import EngineError
from adapmoe.machine.cuda import DeviceModel
from adapmoe.tensorrt.builders import build_plan

# Without a target the plan is for this and everything later; integers of 4 bits need no less.
_DEFAULT = "sm_80+"


class TensorRtRtxBuilder:
    """See EngineBuilder."""

    name: ClassVar[str] = "tensorrt_rtx"
    parallel: ClassVar[bool] = True
    working_bytes: ClassVar[int] = 1 << 30
    dtypes: ClassVar[tuple[str, ...]] = ("int4", "int8", "f16", "f32")
    device: DeviceModel | None = None

    def __init__(self) -> None:
        """Import the library."""
        self._trt: Any = importlib.import_module(self.name)

    @property
    def version(self) -> str:
        """Of the library."""
        return str(self._trt.__version__)

    def choose_targets(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The wanted ones in ascending order, or the default. Raises EngineError."""
        if not wanted or tuple(wanted) == (_DEFAULT,):
            return (_DEFAULT,)
        known = {
            name.replace("SM", "sm_"): name
            for name in self._trt.ComputeCapability.__members__
            if name.startswith("SM")
        }
        for target in wanted:
            if target not in known:
                raise EngineError(
                    f"tensorrt_rtx {self.version} does not build for {target}; it has "
                    f"{', '.join(known)}; without --target a plan is for {_DEFAULT}"
                )
        return tuple(sorted(set(wanted), key=list(known).index))

    def build(
        self, onnx: Path, targets: Sequence[str], timing_cache: Path, workspace_bytes: int
    ) -> memoryview:
        """The plan. This library runs nothing to build it: the last two are not used."""
        return build_plan(self._trt, onnx, lambda config: self._set_targets(config, targets))

    def _set_targets(self, config: Any, targets: Sequence[str]) -> None:
        if tuple(targets) == (_DEFAULT,):
            return
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            capability = getattr(self._trt.ComputeCapability, target.replace("sm_", "SM"))
            if not config.set_compute_capability(capability, index):
                raise EngineError(f"tensorrt_rtx {self.version} refuses the target {target}")
