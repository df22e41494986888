# SPDX-License-Identifier: Apache-2.0
"""From an ONNX model to a plan, with what tensorrt and tensorrt_rtx have in common."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapmoe.errors import EngineError
from adapmoe.onnx_sidecar import INPUT, MAX_ROWS

# As engines.json records them. The weights' own types are kept; one stream, so that running an
# expert is ordered by the caller's stream alone.
FLAGS = ("STRONGLY_TYPED", f"rows=1..{MAX_ROWS}", "max_aux_streams=0")


def make_logger(trt: Any) -> Any:  # noqa: ANN401
    """A logger of the library `trt` whose `errors` are what it said went wrong."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def build_plan(trt: Any, onnx: Path, configure: Callable[[Any], None]) -> memoryview:  # noqa: ANN401
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
