# SPDX-License-Identifier: Apache-2.0
"""How experts are computed: exactly, or by the fastest way that this device has.

Measuring takes a moment and is done once: the result is kept in the user's cache directory, under
the shape of the pack, the device and the versions that it was measured with. A record that cannot
be read is measured again.
"""

import ctypes
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from adapmoe.core_types import ExpertPaths
from adapmoe.machine.cuda import DriverError, ask_driver, load_packaged_tensorrt
from adapmoe.machine.files import cached_path, file_sha256, read_cached, write_cached
from adapmoe.pack.manifest import Manifest

EXACT = "w4a8"  # the path that gives the bits of the CPU
ENGINES = "tensorrt"
_LISTS = "engines/tensorrt-*/engines.json"


class _Measured(msgspec.Struct):
    version: Literal[2]
    key: dict[str, Any]
    seconds: dict[str, Annotated[float, Meta(gt=0)]]
    choice: str


@dataclass(frozen=True)
class Choice:
    """The path to open a session with, and one line for the user where it was measured."""

    path: str
    note: str = ""

    def backend(self, asked: str) -> str:
        """The backend that runs this path; engines are one of the GPU's."""
        return "cuda" if self.path == ENGINES and asked == "auto" else asked


@dataclass(frozen=True)
class Probe:
    """What measures: `paths` can run here; `seconds` of one expert by each."""

    paths: Callable[[], ExpertPaths]
    seconds: Callable[[str], float]
    key: Callable[[], dict[str, Any]]  # what a measurement is good for


def fastest(seconds: Mapping[str, float]) -> str:
    """The path that takes least time; the exact one where it is among the fastest."""
    least = min(seconds.values())
    return EXACT if seconds.get(EXACT) == least else min(seconds, key=lambda path: seconds[path])


def choose_expert_path(experts: str, *, exact: bool, probe: Probe) -> Choice:
    """The path for what the user asked for.

    Args:
        experts: "auto", or a path, which the core checks.
        exact: only paths with the bits of the CPU; there is one, so nothing is measured.
        probe: the device.

    Raises:
        BackendUnavailableError, ReadError: a measurement failed.
    """
    if experts != "auto" or exact:
        return Choice(experts)
    paths, without_engines = probe.paths()
    if len(paths) == 1:
        return Choice(paths[0], without_engines)
    key = probe.key() | {"paths": paths}
    seconds, where = _read(key), "measured before"
    if seconds is None:
        seconds, where = {path: probe.seconds(path) for path in paths}, "measured now"
        write_cached(_name(key), _Measured(2, key, seconds, fastest(seconds)))
    chosen = fastest(seconds)
    times = ", ".join(f"{path} {time * 1e3:.3g} ms" for path, time in seconds.items())
    note = f"arithmetic={chosen}: {where}, {times} for one expert"
    kept = cached_path(_name(key))
    more = [str(part) for part in (kept, without_engines) if part]
    return Choice(chosen, "; ".join([note, *more]))


def device_probe(pack: Path, backend: str) -> Probe:
    """Measures the experts of `pack` on the device that `backend` would use."""
    from adapmoe import _core

    def find_paths() -> ExpertPaths:
        if any(pack.glob(_LISTS)):
            load_packaged_tensorrt()
        return _core.expert_paths(str(pack), backend)

    return Probe(
        paths=find_paths,
        seconds=lambda path: _core.time_expert(str(pack), backend, path),
        key=lambda: _key(pack, Manifest.read(pack), _core.__version__),
    )


def _key(pack: Path, manifest: Manifest, version: str) -> dict[str, Any]:
    """Shape of an expert, device and versions, those of the engines too."""
    experts = manifest.experts
    try:
        driver = ask_driver(ctypes.CDLL("libcuda.so.1"))
        device = driver.devices[0]
        facts = [device.name, device.capability, device.memory_bytes, driver.version]
    except (OSError, DriverError, IndexError):  # an emulated GPU
        facts = []
    return {
        "adapmoe": version,
        "device": facts,
        "quantization": msgspec.structs.asdict(manifest.quantization.experts),
        "sizes": [manifest.config.hidden_size, experts.tile_width, experts.tiles],
        "engines": {path.parent.name: file_sha256(path) for path in sorted(pack.glob(_LISTS))},
    }


def _name(key: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, allow_nan=False).encode()).hexdigest()
    return f"experts-{digest[:32]}.json"


def _read(key: dict[str, Any]) -> dict[str, float] | None:
    found = read_cached(_name(key), _Measured)
    if found is None or found.key != key or not found.seconds.keys() >= set(key["paths"]):
        return None
    return {path: found.seconds[path] for path in key["paths"]}
