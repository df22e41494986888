# SPDX-License-Identifier: Apache-2.0
"""Runs an engine on a CUDA device and compares it with the weights of the pack."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapmoe.errors import BackendUnavailableError, EngineError
from adapmoe.machine.cuda import CudaDevice, find_device
from adapmoe.pack.onnx_models import INPUT, MAX_ROWS, OUTPUT
from adapmoe.pack.weights import ExpertReader
from adapmoe.tensorrt.builders import make_logger, open_builder
from adapmoe.tensorrt.records import FOLDER, EngineRecords, read_engine_records
from adapmoe.tensorrt.worker_pool import WorkerPool

TOLERANCE = 0.01  # relative L2: products in fp16, perhaps accumulated in fp16
_ROWS = (1, 2, MAX_ROWS)
_MAX_RSS_BYTES = 6 << 30

F16 = NDArray[np.float16]


def check_can_validate() -> None:
    """Raises BackendUnavailableError without a CUDA device or pycuda."""
    _device()
    if importlib.util.find_spec("pycuda") is None:
        raise BackendUnavailableError(
            "--validate needs the Python package 'pycuda', which is missing: "
            "pip install 'adapmoe[validate]' compiles it, with nvcc on PATH"
        )


def validate_engines(
    pack: Path,
    tag: str,
    max_rss_bytes: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Run every engine of a tag, each in a process of its own; the worst `relative_error`.

    Raises:
        BackendUnavailableError: there is no CUDA device or no pycuda.
        EngineError: an engine may not run here, cannot, or is further off than TOLERANCE.
    """
    check_can_validate()
    records = _engines(pack, tag).records
    workers, worst = WorkerPool(max_rss_bytes or _MAX_RSS_BYTES), 0.0
    for done, (layer, expert) in enumerate(records):
        job = {"kind": "validate", "pack": str(pack), "tag": tag, "layer": layer, "expert": expert}
        found = workers.run(job)["relative_l2"]
        if not found <= TOLERANCE:
            raise EngineError(
                f"{pack / FOLDER / tag / records[layer, expert].file}: its results are off by a "
                f"relative L2 of {found:.2e}, more than {TOLERANCE}; do not use these engines"
            )
        worst = max(worst, found)
        if progress is not None:
            progress(done + 1, len(records))
    return worst


def relative_error(pack: Path, tag: str, layer: int, expert: int) -> float:
    """The worst relative L2 distance of an engine's result, over 1 to 16 rows.

    Raises:
        EngineError: the plan is not the recorded one, may not run here, or cannot.
    """
    engines = _engines(pack, tag)
    plan = engines.read_plan(layer, expert)
    reader = ExpertReader(pack)
    x = _inputs(reader.hidden_size)
    reference = reader.read(layer, expert).evaluate(x)
    library = engines.records[layer, expert].library
    results = _run(importlib.import_module(library), plan, x)
    errors = [
        np.linalg.norm(y - reference[: len(y)]) / np.linalg.norm(reference[: len(y)])
        for y in results
    ]
    if not np.isfinite(errors).all():  # max() may pass over NaN
        raise EngineError(
            f"{pack / FOLDER / tag / engines.records[layer, expert].file}: its results are NaN or "
            "infinite; do not use these engines"
        )
    return float(max(errors))


def _device() -> CudaDevice:
    device = find_device()
    if device is None:
        raise BackendUnavailableError(
            "--validate runs the engines on a CUDA device, and there is none here; nothing was "
            "validated: build without --validate, and validate where the engines will run"
        )
    return device


def _engines(pack: Path, tag: str) -> EngineRecords:
    """Those of a tag, if the library and the device that are here may run them."""
    library = tag.partition("-")[0]
    version = open_builder(library).version
    return read_engine_records(
        pack, tag, library=library, version=version, device=_device(), check_plans=False
    )


def _inputs(hidden_size: int) -> F16:
    rng = np.random.default_rng(0)
    return rng.standard_normal((MAX_ROWS, hidden_size)).astype(np.float16)


def _run(trt: Any, plan: bytes, x: F16) -> list[NDArray[np.float64]]:
    """What the engine makes of the first 1, 2 and 16 rows of `x`."""
    cuda: Any = importlib.import_module("pycuda.driver")
    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        logger = make_logger(trt)
        try:
            runtime = trt.Runtime(logger)
        except TypeError:  # its bindings' word for null
            raise EngineError(f"{trt.__name__} cannot start: {'; '.join(logger.errors)}") from None
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"{trt.__name__} cannot read the plan: {'; '.join(logger.errors)}")
        execution = engine.create_execution_context()
        if execution is None:
            raise EngineError(f"{trt.__name__} cannot prepare it: {'; '.join(logger.errors)}")
        stream = cuda.Stream()
        device_x, device_y = cuda.mem_alloc(x.nbytes), cuda.mem_alloc(x.nbytes)
        placed = execution.set_tensor_address(INPUT, int(device_x))
        placed &= execution.set_tensor_address(OUTPUT, int(device_y))
        results = []
        for rows in _ROWS:
            y = np.empty((rows, x.shape[1]), np.float16)
            placed &= execution.set_input_shape(INPUT, (rows, x.shape[1]))
            cuda.memcpy_htod_async(device_x, x[:rows], stream)
            if not placed or not execution.execute_async_v3(stream.handle):
                raise EngineError(f"{trt.__name__} cannot run it: {'; '.join(logger.errors)}")
            cuda.memcpy_dtoh_async(y, device_y, stream)
            stream.synchronize()
            results.append(y.astype(np.float64))
        return results
    finally:
        context.pop()
