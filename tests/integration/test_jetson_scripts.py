# SPDX-License-Identifier: Apache-2.0
"""jetson/check_device.sh, with folders in the place of devices."""

import os
import subprocess
from pathlib import Path

import pytest

from support.machine.machines import MACHINES, build
from support.source.source_tree import ROOT

CHECK = ROOT / "jetson" / "check_device.sh"


def run(*words, **environment):
    return subprocess.run(
        list(map(str, words)),
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=120,
    )


def checked(root):
    """{topic: (status, seen with its remedy)} of a machine made of files."""
    done = run("sh", CHECK, ADAPMOE_ROOT=root)
    assert done.stderr == ""
    found, topic = {}, ""
    for line in done.stdout.splitlines():
        status, name, seen = line[:9].strip(), line[9:24].strip(), line[24:].strip()
        if status:
            topic = name
            found[topic] = (status, seen)
        else:
            found[topic] = (found[topic][0], f"{found[topic][1]}; {seen}")
    for topic, (status, seen) in found.items():
        assert status == "ok" or "remedy: " in seen, topic
    return done.returncode, found


EXPECTED = {
    "orin_jetpack_6_2": {
        "jetpack": ("ok", "L4T 36.4.4: JetPack 6.1 or 6.2"),
        "cuda": ("ok", "CUDA 12.6.68: /usr/local/cuda/bin/nvcc"),
        "tensorrt": ("note", "nvidia-jetpack"),
        "memory": ("ok", "55.31 GiB of 61.37 GiB"),
        "nvmap": ("ok", "0.86 GiB"),
        "cgroup": ("ok", "no memory limit"),
        "swap": ("warning", "nvzramconfig"),
        "nvme": ("ok", "Samsung SSD 990 PRO 2TB, link 16.0 GT/s x4"),
        "power_mode": ("warning", "sudo nvpmodel -m 0 sets MAXN"),
        "cpu_clocks": ("warning", "jetson_clocks"),
        "gpu_clocks": ("warning", "jetson_clocks"),
        "kernels": ("ok", "neon"),
    },
    "orin_jetpack_7_2": {
        "jetpack": ("ok", "L4T 39.2.1: JetPack 7.2"),
        "nvme": ("note", "the slot ends at 8.0 GT/s x4"),
        "power_mode": ("ok", "MAXN_SUPER"),
        "cuda": ("ok", "CUDA 13.2.78: /usr/local/cuda-13.2/bin/nvcc"),
        "cpu_clocks": ("ok", "held up"),
        "gpu_clocks": ("ok", "held up"),
        "swap": ("ok", "none"),
    },
    "workstation": {
        "jetpack": ("ok", "not a Jetson"),
        "cuda": ("note", "no nvcc"),
        "nvme": ("warning", "link 16.0 GT/s x2, the drive can 16.0 GT/s x4"),
        "cgroup": ("note", "64.00 GiB"),
        "swap": ("ok", "/swapfile"),
        "kernels": ("ok", "avx2"),
    },
    "container": {
        "memory": ("warning", "2.86 GiB"),
        "cgroup": ("note", "4.00 GiB"),
        "nvme": ("note", "fit one"),
        "io_uring": ("note", "seccomp"),
    },
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_device_is_checked(name, tmp_path):
    code, found = checked(build(tmp_path, MACHINES[name]()))
    assert code == 0
    for topic, (status, words) in EXPECTED[name].items():
        assert found[topic][0] == status, (topic, found[topic])
        assert words in found[topic][1]


def test_a_machine_that_shows_nothing_is_not_called_well(tmp_path):
    code, found = checked(tmp_path)
    assert code == 0
    for topic in ("memory", "cgroup", "swap", "nvme", "io_uring", "cuda"):
        assert found[topic][0] == "note", topic


LIBRARY = "usr/lib/aarch64-linux-gnu/libnvinfer.so.10"
HEADER = "usr/include/aarch64-linux-gnu/NvInferRuntime.h"
CLOCK = "sys/devices/system/cpu/cpufreq/policy0/scaling"


@pytest.mark.parametrize(
    ("changes", "topic", "status", "words"),
    [
        ({f"{CLOCK}_min_freq": None}, "cpu_clocks", "note", "not to be seen"),
        ({f"{CLOCK}_governor": "performance\n"}, "cpu_clocks", "ok", "held up"),
        ({"sys/class/devfreq/17000000.gpu/max_freq": ""}, "gpu_clocks", "note", "not to be seen"),
        (
            {"etc/nv_tegra_release": "# R45 (release), REVISION: 1.0\n"},
            "jetpack",
            "note",
            "L4T 45.1.0",
        ),
        ({"boot/config": "# CONFIG_IO_URING is not set\n"}, "io_uring", "note", "CONFIG_IO_URING"),
        ({"usr/local/cuda/bin/nvcc": None}, "cuda", "warning", "(CUDA 12.6.11) has no bin/nvcc"),
        ({"usr/local/cuda/bin/nvcc": "#!/bin/sh\nexit 1\n"}, "cuda", "note", "does not answer"),
        ({"proc/swaps": None}, "swap", "note", "mount /proc"),
        ({LIBRARY: "x"}, "tensorrt", "note", "libnvinfer-headers-dev"),
        ({LIBRARY: "x", HEADER: "x"}, "tensorrt", "ok", "libnvinfer.so.10"),
    ],
)
def test_what_is_missing_is_said_to_be(tmp_path, changes, topic, status, words):
    files = {**MACHINES["orin_jetpack_6_2"](), **changes}
    if "boot/config" in files:
        files[f"boot/config-{os.uname().release}"] = files.pop("boot/config")
    _, found = checked(build(tmp_path, {path: text for path, text in files.items() if text}))
    assert found[topic][0] == status
    assert words in found[topic][1]


def test_a_missing_program_is_not_taken_for_a_folder_that_cannot_be_written(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in map(Path, os.environ["PATH"].split(os.pathsep)):
        for program in folder.glob("*"):
            if program.name != "mktemp" and not (tools / program.name).exists():
                (tools / program.name).symlink_to(program)
    done = run("sh", CHECK, tmp_path, PATH=tools)
    assert "not tried: no mktemp" in done.stdout


def test_this_machine_is_checked_and_nothing_is_left(tmp_path):
    done = run("sh", CHECK, tmp_path)
    assert done.stderr == ""
    assert "o_direct" in done.stdout
    assert list(tmp_path.iterdir()) == []
