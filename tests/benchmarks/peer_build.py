# SPDX-License-Identifier: Apache-2.0
"""Run as a program: builds the peer, llama.cpp, for this machine, and prints its Python.

Its source comes from the PyPI source distribution of llama-cpp-python. What is downloaded and built
stays outside the tree, in $XDG_CACHE_HOME/adapmoe-bench (~/.cache/adapmoe-bench).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
CMAKE = "-DGGML_NATIVE=ON -DGGML_CUDA=OFF -DGGML_BLAS=OFF -DLLAVA_BUILD=OFF"


def cache_folder() -> Path:
    """Of this version of the peer; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "adapmoe-bench" / f"{PACKAGE}-{VERSION}"


def peer_python() -> Path:
    """The Python that can import llama_cpp; the first call builds it, which takes minutes.

    Raises subprocess.CalledProcessError when pip or the compiler fail.
    """
    folder = cache_folder()
    python, built = folder / "venv/bin/python", folder / "built"
    if built.exists() and built.read_text() == CMAKE:
        return python
    shutil.rmtree(folder / "venv", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"building {PACKAGE} {VERSION} in {folder}: minutes, once", file=sys.stderr)
    _run([sys.executable, "-m", "venv", str(folder / "venv")])
    environment = os.environ | {"CMAKE_ARGS": CMAKE, "CMAKE_BUILD_PARALLEL_LEVEL": "2"}
    from_source = ["--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}"]
    _run([str(python), "-m", "pip", "install", "-q", *from_source], environment)
    _run([str(python), "-c", "import llama_cpp"])
    built.write_text(CMAKE)
    return python


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)


if __name__ == "__main__":
    print(peer_python())
