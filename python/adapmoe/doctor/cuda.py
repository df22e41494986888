# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver with its devices, and the toolkit that a build needs."""

from adapmoe.doctor.cuda_driver import Device, Driver, DriverError, ask_driver
from adapmoe.doctor.finding import Finding
from adapmoe.doctor.machine import Machine
from adapmoe.doctor.nvcc import bare_toolkit, find_nvcc, nvcc_version
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
