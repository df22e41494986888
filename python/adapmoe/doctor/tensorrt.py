# SPDX-License-Identifier: Apache-2.0
"""TensorRT: the library as a session finds it, and the Python packages that build engines."""

from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine
from adapmoe.tensorrt_library import LIBRARIES, packaged_library

_WHY_LIBRARY = "running one engine per expert needs it; all other backends do not"
_WHY_PACKAGE = "building engines needs one of them, for the device that they shall run on"


def library_version(number: int) -> str:
    """ "10.3.0" from 100300, as `getInferLibVersion` writes it since TensorRT 10."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def examine_tensorrt(machine: Machine) -> list[Finding]:
    """The library, then the packages."""
    return [_library(machine), _packages(machine)]


def _library(machine: Machine) -> Finding:
    for name in LIBRARIES:
        for where in filter(None, (packaged_library(name), name)):
            library = machine.load(str(where))
            if library is None:
                continue
            version = getattr(library, "getInferLibVersion", None)
            seen = f"{where}, TensorRT {library_version(version())}" if version else str(where)
            return Finding("tensorrt_library", "ok", seen, _WHY_LIBRARY)
    names = " or ".join(reversed(LIBRARIES))
    if not machine.is_jetson:
        return Finding("tensorrt_library", "ok", f"no {names}", _WHY_LIBRARY)
    return Finding(
        "tensorrt_library",
        "note",
        f"no {names}",
        _WHY_LIBRARY,
        "sudo apt install nvidia-jetpack, or tensorrt alone",
    )


def _packages(machine: Machine) -> Finding:
    found = {name: machine.package(name) for name in ("tensorrt", "tensorrt_rtx")}
    present = [f"{name} {version}" for name, version in found.items() if version]
    if present:
        return Finding("tensorrt_python", "ok", ", ".join(present), _WHY_PACKAGE)
    if not machine.is_jetson:
        return Finding("tensorrt_python", "ok", "none", _WHY_PACKAGE)
    return Finding(
        "tensorrt_python",
        "note",
        "no Python package tensorrt",
        _WHY_PACKAGE,
        "sudo apt install python3-libnvinfer, and a venv made with --system-site-packages",
    )
