# SPDX-License-Identifier: Apache-2.0
"""One job in a process of its own: `python -m adapmoe.tensorrt.worker`, JSON in, JSON out.

A library that crashes or takes too much memory then costs one expert, and the peak memory of a
build can be told apart from that of the others.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from adapmoe.errors import AdapmoeError, EngineError
from adapmoe.machine.files import file_sha256
from adapmoe.machine.procfs import peak_rss_bytes
from adapmoe.tensorrt.builders import open_builder
from adapmoe.tensorrt.validate import relative_error

Job = dict[str, Any]
_PR_SET_PDEATHSIG = 1


def build(job: Job) -> Job:
    """Build `onnx`, which must have the hash `onnx_sha256`, into the file `plan`."""
    onnx, plan = Path(job["onnx"]), Path(job["plan"])
    found = file_sha256(onnx)
    if found != job["onnx_sha256"]:
        raise EngineError(
            f"{onnx}: SHA-256 is {found}, onnx.json says {job['onnx_sha256']}; the file is "
            "damaged: run the export with --onnx again"
        )
    builder = open_builder(job["builder"])
    if builder.version != job["version"]:
        raise EngineError(
            f"{builder.name} is {builder.version} now, the build began with {job['version']}"
        )
    begin = time.perf_counter()
    timing_cache, workspace = Path(job["timing_cache"]), job["workspace_bytes"]
    data = builder.build(onnx, job["targets"], timing_cache, workspace)
    seconds = time.perf_counter() - begin
    with plan.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {
        "sha256": file_sha256(plan),
        "bytes": data.nbytes,
        "seconds": round(seconds, 3),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def validate(job: Job) -> Job:
    """Run a plan on the device; how far it is from the pack's weights in float64."""
    pack, layer, expert = Path(job["pack"]), job["layer"], job["expert"]
    return {"relative_l2": relative_error(pack, job["tag"], layer, expert)}


JOBS = {"build": build, "validate": validate}


def main() -> None:
    """Read the job from stdin, do it, print the result. What libraries print goes to stderr."""
    _die_with_parent()
    results = os.dup(1)
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    try:
        result = JOBS[job["kind"]](job)
    except AdapmoeError as error:
        result = {"error": str(error)}
    except OSError as error:
        result = {"error": f"{error.filename or job['kind']}: {error.strerror}"}
    os.write(results, json.dumps(result, allow_nan=False).encode())


def _die_with_parent() -> None:
    """A build whose result nobody waits for must not go on."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
