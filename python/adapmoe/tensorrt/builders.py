# SPDX-License-Identifier: Apache-2.0
"""What turns an ONNX model into a plan, and which of two libraries does it here."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from adapmoe.errors import BackendUnavailableError, EngineError
from adapmoe.machine.cuda import DeviceModel
from adapmoe.pack.onnx_models import INPUT, MAX_ROWS

# As engines.json records them. The weights' own types are kept; one stream, so that running an
# expert is ordered by the caller's stream alone.
FLAGS = ("STRONGLY_TYPED", f"rows=1..{MAX_ROWS}", "max_aux_streams=0")


def make_logger(trt: Any) -> Any:
    """A logger of the library `trt` whose `errors` are what it said went wrong."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def build_plan(trt: Any, onnx: Path, configure: Callable[[Any], None]) -> memoryview:
    """Build with the library `trt`; `configure` may add to the builder's configuration.

    Raises:
        EngineError: with what the library said.
    """
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        said = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise EngineError(f"{onnx}: {trt.__name__} cannot parse it: {'; '.join(said)}")
    config = builder.create_builder_config()
    config.max_aux_streams = 0
    configure(config)
    hidden_size = network.get_input(0).shape[1]
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, (1, hidden_size), (1, hidden_size), (MAX_ROWS, hidden_size))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{onnx}: {trt.__name__} cannot build it: {'; '.join(logger.errors)}")
    return memoryview(plan).cast("B")


class EngineBuilder(Protocol):
    """One library. Making one imports it; raises ModuleNotFoundError where it is not installed.

    Attributes:
        name: the library's module.
        parallel: whether builds may run side by side. Not if they time kernels on a device.
        working_bytes: resident memory that a build may take besides a few copies of the weights.
        dtypes: of the experts that it can build.
    """

    name: ClassVar[str]
    parallel: ClassVar[bool]
    working_bytes: ClassVar[int]
    dtypes: ClassVar[tuple[str, ...]]

    @property
    def version(self) -> str:
        """Of the library."""
        ...

    @property
    def device(self) -> DeviceModel | None:
        """The only one that plans run on; None: whatever the targets cover."""
        ...

    def choose_targets(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """The compute capabilities to build for, or the default for none.

        Raises EngineError for what the library cannot build, BackendUnavailableError if it needs a
        device and there is none.
        """
        ...

    def build(
        self, onnx: Path, targets: Sequence[str], timing_cache: Path, workspace_bytes: int
    ) -> memoryview:
        """The plan of the model at `onnx`; what was timed is kept in the file `timing_cache`.

        `workspace_bytes`: device memory that kernels may work in. For builds on a device only.
        Raises EngineError with what the library said.
        """
        ...


# By name; "auto" tries them in this order.
_MODULES = {
    "tensorrt": ("adapmoe.tensorrt.tensorrt_builder", "TensorRtBuilder"),
    "tensorrt_rtx": ("adapmoe.tensorrt.tensorrt_rtx_builder", "TensorRtRtxBuilder"),
}
BUILDERS = tuple(_MODULES)
_INSTALL = (
    "tensorrt comes with JetPack (in a virtual environment: python3 -m venv "
    "--system-site-packages) or by `pip install tensorrt`, and needs a GPU; tensorrt_rtx comes by "
    "`pip install tensorrt-rtx`, and builds without one"
)


def open_builder(name: str) -> EngineBuilder:
    """A builder by its name, or with "auto" the first that can build here.

    Raises:
        EngineError: no such builder.
        BackendUnavailableError: it is not installed, or "auto" found none.
    """
    if name == "auto":
        return _first_usable()
    if name not in _MODULES:
        raise EngineError(f"unknown builder {name!r}; choose auto, {', '.join(BUILDERS)}")
    try:
        return _make(name)
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(f"{name} is not installed; {_INSTALL}") from error
    except (ImportError, OSError) as error:  # installed, but a library of its own is missing
        raise BackendUnavailableError(f"{name} cannot be loaded: {error}; {_INSTALL}") from error


def _first_usable() -> EngineBuilder:
    reasons = []
    for name in BUILDERS:
        try:
            builder = open_builder(name)
            builder.choose_targets(())
        except BackendUnavailableError as error:
            reasons.append(str(error).partition("; ")[0])
        else:
            return builder
    raise BackendUnavailableError(f"nothing here builds engines: {'; '.join(reasons)}; {_INSTALL}")


def _make(name: str) -> EngineBuilder:
    module, builder = _MODULES[name]
    make: Any = getattr(importlib.import_module(module), builder)
    made: EngineBuilder = make()
    return made
