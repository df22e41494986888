# SPDX-License-Identifier: Apache-2.0
"""The programs of runtime/tools, as `make venv` builds them here and `make aarch64` for Arm."""

import os
import shutil
import subprocess

import numpy as np
import pytest

from adapmoe.machine.cuda import find_device
from support.source.source_tree import ROOT

EMULATOR = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")


def tool(name, cpu=None, build="test"):
    """The command that runs adapmoe-`name`: here, or on the Arm `cpu` that qemu emulates.

    `build` "emulated" has the GPU kernels, run on the CPU; "cuda" is for a real GPU.
    """
    build = build if cpu is None else "aarch64"
    made_by = {
        "test": "venv",
        "aarch64": "aarch64",
        "emulated": "gpu-kernels",
        "cuda": "gpu-kernels",
    }[build]
    path = ROOT / "build" / build / "runtime/tools" / f"adapmoe-{name}"
    if not path.exists():
        pytest.skip(f"no {path.relative_to(ROOT)}: run `make {made_by}`")
    if cpu is None:
        return [str(path)]
    if shutil.which(EMULATOR[0]) is None:
        pytest.skip(f"no {EMULATOR[0]}: apt-get install qemu-user")
    return [*EMULATOR, "-cpu", cpu, str(path)]


def require_gpu():
    """Fail, with the reason, where this machine cannot run what `make gpu-tests` builds."""
    if find_device() is None:
        pytest.fail("-m gpu needs a CUDA device, and the driver (libcuda.so.1) shows none here")
    path = ROOT / "build/cuda/runtime/tools/adapmoe-tokens"
    if not path.exists():
        pytest.fail(f"no {path.relative_to(ROOT)}: run `make gpu-tests`, which needs nvcc")


def run(command, *arguments, env=None):
    """`env`: added to this process's environment."""
    whole = None if env is None else os.environ | env
    arguments = map(str, arguments)
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=whole)


def kernel_digests(cpu=None):
    """{table: {kernel: digest}} of adapmoe-kernel-check, which found all tables equal to scalar."""
    done = run(tool("kernel-check", cpu))
    assert done.returncode == 0, done.stdout + done.stderr
    digests = {}
    for line in done.stdout.splitlines():
        table, kernel, digest = line.split()
        digests.setdefault(table, {})[kernel] = digest
    return digests


def token_report(pack, *arguments, cpu=None, build="test", env=None):
    """{word: rest of its line} of adapmoe-tokens."""
    done = run(tool("tokens", cpu, build), pack, *arguments, env=env)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def run_expert(pack, layer, expert, x, *, backend, path, build):
    """Rows float32 [n, hidden_size] of one expert of `pack`, by adapmoe-expert."""
    command = [*tool("expert", build=build), pack, layer, expert, backend, path]
    done = subprocess.run([str(part) for part in command], input=x.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.float32).reshape(x.shape)
