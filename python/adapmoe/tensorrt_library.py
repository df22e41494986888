# SPDX-License-Identifier: Apache-2.0
"""TensorRT as `pip install tensorrt` brings it: in a package's folder, where no loader looks."""

import ctypes
import logging
from importlib.util import find_spec
from pathlib import Path

_log = logging.getLogger("adapmoe")

LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10")  # that experts="tensorrt" can use
_PACKAGE = "tensorrt_libs"


def packaged_library(name: str) -> Path | None:
    """The library `name` in the package, which is not imported; None where there is none."""
    spec = find_spec(_PACKAGE)
    folders = (spec and spec.submodule_search_locations) or []
    return next((path for folder in folders if (path := Path(folder, name)).is_file()), None)


def load_packaged_tensorrt() -> None:
    """Load what the package has: the core, which asks by name, is then given the same library.

    It goes before a library of the system, as it does for `import tensorrt`, which builds engines.
    """
    for path in filter(None, map(packaged_library, LIBRARIES)):
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            _log.warning("TensorRT cannot be loaded: %s", error)
