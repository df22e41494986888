# SPDX-License-Identifier: Apache-2.0
"""The GPU, its driver and toolkit, TensorRT."""

from adapmoe.doctor.build import bare_toolkit, find_nvcc, nvcc_version
from adapmoe.doctor.machine import Finding, Machine
from adapmoe.machine.cuda import (
    LIBRARIES,
    Device,
    Driver,
    DriverError,
    ask_driver,
    packaged_library,
)
from adapmoe.units import format_bytes

_WHY_DRIVER = "backend=cuda needs it; without it everything runs on the CPU, with the same results"
_WHY_TOOLKIT = "a build with GPU kernels needs nvcc; running them does not"
_TEGRA_NODES = ("dev/nvmap", "dev/nvhost-ctrl-gpu", "dev/nvgpu")


def find_driver(machine: Machine) -> Driver | DriverError | None:
    """The driver with its devices, its refusal, or None where there is no libcuda."""
    library = machine.load("libcuda.so.1")
    if library is None:
        return None
    try:
        return ask_driver(library)
    except DriverError as error:
        return error


def examine_cuda(machine: Machine, driver: Driver | DriverError | None) -> list[Finding]:
    """Driver, then toolkit."""
    wanted = machine.is_jetson or isinstance(driver, Driver)
    return [_driver(machine, driver), _toolkit(machine, wanted=wanted)]


def _driver(machine: Machine, driver: Driver | DriverError | None) -> Finding:
    topic = "cuda_driver"
    if driver is None:
        if not machine.is_jetson:
            return Finding(topic, "ok", "none: no NVIDIA GPU, or no driver", _WHY_DRIVER)
        remedy = "sudo apt install nvidia-jetpack; in a container, run it with --runtime nvidia"
        return Finding(topic, "warning", "libcuda.so.1 not found", _WHY_DRIVER, remedy)
    if isinstance(driver, DriverError):
        seen = f"libcuda.so.1: {driver}"
        return Finding(topic, "warning", seen, _WHY_DRIVER, _refusal(machine))
    if not driver.devices:
        seen = f"CUDA {driver.version}, but no device"
        return Finding(topic, "warning", seen, _WHY_DRIVER, _refusal(machine))
    devices = "; ".join(_describe(device) for device in driver.devices)
    return Finding(topic, "ok", f"CUDA {driver.version}: {devices}", _WHY_DRIVER)


def _describe(device: Device) -> str:
    memory = "shared with the CPU" if device.integrated else "its own"
    size = format_bytes(device.memory_bytes)
    return f"{device.name}, compute capability {device.capability}, {size} of memory, {memory}"


def _refusal(machine: Machine) -> str:
    if not machine.is_jetson:
        return "compare nvidia-smi; in a container, run it with --gpus all"
    missing = [f"/{node}" for node in _TEGRA_NODES if not machine.tree.exists(node)]
    if missing:
        return f"{', '.join(missing)}: missing; in a container, run it with --runtime nvidia"
    return "join the groups that own /dev/nvmap and /dev/nvhost-*: video and render"


def _toolkit(machine: Machine, *, wanted: bool) -> Finding:
    nvcc = find_nvcc(machine)
    version = nvcc_version(machine, nvcc) if nvcc else None
    if version:
        return Finding("cuda_toolkit", "ok", f"CUDA {version}: {nvcc}", _WHY_TOOLKIT)
    if nvcc:
        remedy = "point CUDACXX to an nvcc that works, or unset it, then install adapmoe again"
        return Finding("cuda_toolkit", "note", f"{nvcc} does not answer", _WHY_TOOLKIT, remedy)
    folder = bare_toolkit(machine.tree)
    seen = f"{folder} has no bin/nvcc" if folder else "no nvcc on PATH, in CUDACXX or /usr/local"
    if not wanted:
        return Finding("cuda_toolkit", "ok", seen, _WHY_TOOLKIT)
    remedy = (
        "sudo apt install nvidia-jetpack, then install adapmoe again"
        if machine.is_jetson
        else "install the CUDA toolkit, then install adapmoe again, to build GPU kernels"
    )
    return Finding("cuda_toolkit", "note", seen, _WHY_TOOLKIT, remedy)


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
