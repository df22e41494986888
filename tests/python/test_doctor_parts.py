# SPDX-License-Identifier: Apache-2.0
"""The parts of `adapmoe doctor`."""

import dataclasses
import os
from types import SimpleNamespace

import pytest

from adapmoe.doctor.build import Core, examine_core, examine_kernels
from adapmoe.doctor.disk import Trial, block_device, examine_disk_access, try_reading
from adapmoe.doctor.examine import examine_machine
from adapmoe.doctor.gpu import examine_tensorrt, library_version
from adapmoe.doctor.jetson import examine_power_mode, fastest_mode, power_modes
from adapmoe.doctor.machine import Machine, load_library, package_version, run_command
from adapmoe.doctor.memory import examine_cgroup
from adapmoe.machine.cuda import Device, DriverError, ask_driver
from adapmoe.machine.procfs import KernelTree, mount_of
from support.machine.machines import FOLDER, MACHINES, build

CORE = Core("", "12.2.0", cuda=False, io_uring=True, kernels=("neon", "scalar"))
WORKS = Trial(True, "")


def test_power_modes_are_read_by_name():
    modes = power_modes("< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n")
    assert modes == {0: "15W", 2: "MAXN_SUPER"}
    assert fastest_mode(modes) == 2
    assert fastest_mode({0: "15W"}) is None


def test_nvpmodel_is_asked_where_its_file_is_missing(tmp_path):
    files = MACHINES["orin_jetpack_6_2"]()
    del files["var/lib/nvpmodel/status"]
    asked = []

    def run(words):
        asked.append(list(words))
        return "NV Power Mode: MODE_15W\n1\n"

    machine = dataclasses.replace(Machine.at(build(tmp_path, files)), run=run)
    (finding,) = examine_power_mode(machine)
    assert (finding.status, finding.seen) == ("warning", "MODE_15W")
    assert asked == [["nvpmodel", "-q"]]


class FakeDriver:
    """libcuda of an Orin; `refusing` names a function that fails."""

    def __init__(self, refusing=None):
        self.refusing = refusing

    def __getattr__(self, name):
        if name == self.refusing:
            return lambda *_: 999
        if name.startswith("cu"):
            return getattr(self, f"_{name}")
        raise AttributeError(name)

    def _cuInit(self, flags):
        return 0

    def _cuDriverGetVersion(self, version):
        version._obj.value = 12060
        return 0

    def _cuDeviceGetCount(self, count):
        count._obj.value = 1
        return 0

    def _cuDeviceGet(self, device, index):
        device._obj.value = index
        return 0

    def _cuDeviceGetName(self, name, size, device):
        name.value = b"Orin"
        return 0

    def _cuDeviceTotalMem_v2(self, memory, device):
        memory._obj.value = 62 << 30
        return 0

    def _cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: 8, 76: 7, 18: 1, 16: 16}[attribute]
        return 0


def test_the_driver_is_asked_through_its_c_interface(tmp_path):
    driver = ask_driver(FakeDriver())
    assert driver.version == "12.6"
    assert driver.devices == [Device("Orin", "8.7", 62 << 30, True, 16)]
    with pytest.raises(DriverError, match="cuInit returned 999"):
        ask_driver(FakeDriver("cuInit"))
    with pytest.raises(DriverError, match="no function cuInit"):
        ask_driver(SimpleNamespace())
    root = build(tmp_path, MACHINES["orin_jetpack_6_2"]())
    for library, status, words in (
        (FakeDriver(), "ok", "Orin, compute capability 8.7, 62.00 GiB of memory, shared"),
        (FakeDriver("cuInit"), "warning", "cuInit returned 999"),
    ):
        machine = dataclasses.replace(Machine.at(root), load=lambda name, found=library: found)
        findings = examine_machine(machine, CORE, FOLDER, WORKS)
        (finding,) = (f for f in findings if f.topic == "cuda_driver")
        assert finding.status == status
        assert words in finding.seen
        if status == "warning":
            assert "/dev/nvhost-ctrl-gpu" in finding.remedy


def test_tensorrt_is_the_newest_that_the_loader_finds(tmp_path):
    assert library_version(100300) == "10.3.0"
    assert library_version(101602) == "10.16.2"
    library = SimpleNamespace(getInferLibVersion=lambda: 101602)
    machine = dataclasses.replace(
        Machine.at(tmp_path),
        load={"libnvinfer.so.10": library}.get,
        package={"tensorrt": "10.16.2.10"}.get,
    )
    found, packages = examine_tensorrt(machine)
    assert found.seen == "libnvinfer.so.10, TensorRT 10.16.2"
    assert packages.seen == "tensorrt 10.16.2.10"


LIMITED = {
    "proc/self/cgroup": "0::/a/b\n",
    "proc/meminfo": "MemTotal: 1000 kB\n",
    "sys/fs/cgroup/a/memory.max": "512000\n",
    "sys/fs/cgroup/a/memory.current": "102400\n",
    "sys/fs/cgroup/a/b/memory.max": "max\n",
    "sys/fs/cgroup/memory.max": "4096000\n",
}


@pytest.mark.parametrize(
    ("files", "seen"),
    [
        ({}, "500.00 KiB by /sys/fs/cgroup/a/memory.max; 400.00 KiB can still be taken"),
        (
            {"sys/fs/cgroup/a/b/memory.high": "307200"},
            "300.00 KiB by /sys/fs/cgroup/a/b/memory.high; 300.00 KiB can still be taken",
        ),
        ({"sys/fs/cgroup/a/memory.max": "2048000"}, "no memory limit"),  # more than there is
    ],
)
def test_the_smallest_limit_of_a_cgroup_and_its_parents_is_named(tmp_path, files, seen):
    (finding,) = examine_cgroup(Machine.at(build(tmp_path, LIMITED | files)))
    assert finding.seen.endswith(seen)


def test_without_the_core_cgroups_are_not_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("adapmoe.doctor.memory.memory_limits", lambda root: None)
    (finding,) = examine_cgroup(Machine.at(build(tmp_path, LIMITED)))
    assert (finding.status, "cannot be loaded" in finding.seen) == ("note", True)


def test_the_mount_is_the_longest_and_latest(tmp_path):
    lines = [
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw",
        "2 1 8:2 / /data\\040disk rw - xfs /dev/sdb1 rw",
        "3 1 8:3 / /data\\040disk rw - btrfs /dev/sdc1 rw",
        "nonsense",
    ]
    tree = KernelTree(build(tmp_path, {"proc/self/mountinfo": "\n".join(lines)}))
    assert mount_of(tree, "/data disk/packs").kind == "btrfs"
    assert mount_of(tree, "/database").kind == "ext4"


def test_a_mapped_device_stands_for_the_disk_below(tmp_path):
    files = {
        "sys/dev/block/252:0/uevent": "DEVNAME=dm-0\n",
        "sys/block/dm-0/slaves/nvme0n1p3/size": "1\n",
    }
    assert block_device(KernelTree(build(tmp_path, files)), "252:0") == "nvme0n1p3"


@pytest.mark.parametrize(
    ("reason", "files", "words"),
    [
        ("io_uring is not built in: install", {}, "liburing-dev"),
        ("io_uring_setup: refused", {"proc/sys/kernel/io_uring_disabled": "2"}, "sysctl"),
        ("io_uring_setup: refused", {"proc/self/status": "Seccomp:\t2"}, "seccomp="),
        ("io_uring_setup: Function not implemented", {}, "CONFIG_IO_URING"),
    ],
)
def test_why_io_uring_is_refused(tmp_path, reason, files, words):
    machine = Machine.at(build(tmp_path, files))
    _, ring = examine_disk_access(machine, "/x", Trial(True, reason))
    assert ring.status == "note"
    assert words in ring.remedy


@pytest.mark.parametrize(
    ("limit", "capabilities", "words"),
    [
        ("8388608", "0000000000000000", "at most 8.00 MiB (ulimit -l)"),
        ("unlimited", "0000000000000000", "no limit"),
        ("8388608", "000001ffffffffff", "no limit"),
        (None, "0000000000000000", "unknown"),
    ],
)
def test_how_much_may_be_registered(tmp_path, limit, capabilities, words):
    files = {"proc/self/status": f"CapEff:\t{capabilities}\nSeccomp:\t0\n"}
    if limit is not None:
        files["proc/self/limits"] = f"Max locked memory         {limit}    {limit}    bytes\n"
    machine = Machine.at(build(tmp_path, files))
    _, ring = examine_disk_access(machine, "/x", Trial(True, ""))
    assert ring.status == "ok"
    assert words in ring.seen


def test_reading_is_tried_and_leaves_nothing(tmp_path):
    trial = try_reading(tmp_path)
    assert trial.direct in (True, False)
    assert list(tmp_path.iterdir()) == []
    assert try_reading(tmp_path / "none").reason.endswith("No such file or directory")


def test_a_core_that_cannot_be_loaded_is_a_problem():
    (finding,) = examine_core(Core(error="no module named _core"), gpu=False)
    assert finding.status == "problem"
    assert examine_kernels(Core(error="x"), []) == []
    (scalar,) = examine_kernels(Core(kernels=("scalar",)), [])
    assert scalar.status == "warning"
    (bare,) = examine_core(Core("", "13", cuda=False, io_uring=False), gpu=True)
    assert "liburing-dev" in bare.remedy
    assert "CUDA" in bare.remedy
    assert "without CUDA, TensorRT, io_uring" in bare.seen


def test_a_build_without_tensorrt_is_worth_knowing_where_there_is_a_gpu():
    without = Core("", "13", cuda=True, io_uring=True)
    (finding,) = examine_core(without, gpu=True)
    assert finding.status == "note"
    assert "libnvinfer-headers-dev" in finding.remedy
    (finding,) = examine_core(without, gpu=False)
    assert finding.status == "ok"
    (finding,) = examine_core(dataclasses.replace(without, tensorrt=(10, 11)), gpu=True)
    assert finding.status == "ok"
    assert "with CUDA, TensorRT 10 and 11, io_uring" in finding.seen


def test_commands_libraries_and_packages_may_be_missing(tmp_path, monkeypatch):
    assert run_command(["adapmoe-no-such-program"]) is None
    assert load_library("libadapmoe-no-such.so.1") is None
    assert package_version("adapmoe-no-such-package") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, script in (("fails", "exit 1"), ("says", "echo 'NV Power Mode: MAXN'")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    assert run_command(["fails"]) is None
    assert run_command(["says"]) == "NV Power Mode: MAXN\n"


def test_unreadable_files_are_as_good_as_missing(tmp_path):
    tree = KernelTree(build(tmp_path, {"a": "1\n", "d/e": "x"}))
    assert tree.number("a") == 1
    assert tree.text("d") is None  # a directory
    assert tree.names("none") == tree.glob("none/*") == []
    assert tree.number("d/e") is None
    if os.geteuid() != 0:
        (tmp_path / "a").chmod(0)
        assert tree.text("a") is None
