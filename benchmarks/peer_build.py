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
_COMMON = "-DGGML_CUDA=OFF -DGGML_BLAS=OFF -DLLAVA_BUILD=OFF"
# llama.cpp's AMX products crash at the first token (its issue 20824): there, all but AMX.
_WITHOUT_AMX = (
    "-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON "
    "-DGGML_AVX512_BF16=ON -DGGML_AVX_VNNI=ON"
)


def cmake_arguments(cpu_flags: list[str]) -> str:
    """For a CPU with these flags of /proc/cpuinfo: everything that it can do and that works."""
    return f"{_WITHOUT_AMX if 'amx_int8' in cpu_flags else '-DGGML_NATIVE=ON'} {_COMMON}"


def _cpu_flags() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split() for line in lines if line.startswith("flags")), [])


CMAKE = cmake_arguments(_cpu_flags())


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
    # Not from pip's cache, which does not know CMAKE_ARGS.
    from_source = ["--no-cache-dir", "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}"]
    _run([str(python), "-m", "pip", "install", "-q", *from_source], environment)
    _run([str(python), "-c", "import llama_cpp"])
    built.write_text(CMAKE)
    return python


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)


if __name__ == "__main__":
    print(peer_python())
