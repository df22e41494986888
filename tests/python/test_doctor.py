# SPDX-License-Identifier: Apache-2.0
"""`adapmoe doctor` on machines made of files, and its parts."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from adapmoe.cli import doctor as doctor_command
from adapmoe.cli.main import app
from adapmoe.doctor.build import Core
from adapmoe.doctor.disk import Trial
from adapmoe.doctor.examine import examine, examine_machine
from adapmoe.doctor.jetson import l4t_release
from adapmoe.doctor.machine import Finding, Machine, has_problem
from support.machine.machines import FOLDER, MACHINES, build, runner

CORE = Core("", "12.2.0", cuda=False, io_uring=True, kernels=("neon", "scalar"))
WORKS = Trial(True, "")


@pytest.fixture
def found(tmp_path):
    """Findings of a machine: {topic: finding}, after changing or removing (None) some files."""

    def look(name, changes=None, core=CORE, trial=WORKS, folder=FOLDER):
        files = {**MACHINES[name](), **(changes or {})}
        root = build(tmp_path, {path: text for path, text in files.items() if text is not None})
        machine = dataclasses.replace(Machine.at(root), run=runner(root))
        findings = examine_machine(machine, core, folder, trial)
        return {finding.topic: finding for finding in findings}

    return look


def test_an_orin_as_it_comes_on_jetpack_6_2(found):
    report = found("orin_jetpack_6_2")
    expected = {
        "jetpack": ("ok", "L4T 36.4.4: JetPack 6.1 or 6.2 (CUDA 12.6, TensorRT 10.3)"),
        "cuda_driver": ("warning", "libcuda.so.1 not found"),
        "cuda_toolkit": ("ok", "CUDA 12.6.68: /usr/local/cuda/bin/nvcc"),
        "memory": ("ok", "55.31 GiB of 61.37 GiB"),
        "nvmap": ("ok", "878.91 MiB in use"),
        "cgroup": ("ok", "no memory limit"),
        "swap": ("warning", "zram"),
        "nvme": ("ok", "nvme0: Samsung SSD 990 PRO 2TB, link 16 GT/s x4"),
        "disk": ("ok", "/data/packs lies on nvme0n1p1"),
        "o_direct": ("ok", "ext4 at /data"),
        "power_mode": ("warning", "MODE_30W"),
        "cpu_clocks": ("warning", "governor schedutil"),
        "gpu_clocks": ("warning", "17000000.gpu"),
        "kernels": ("ok", "neon of neon, scalar; the processor has asimd asimddp asimdhp"),
    }
    for topic, (status, words) in expected.items():
        assert report[topic].status == status, topic
        assert words in report[topic].seen, topic
    assert "nvpmodel -m 0 sets MAXN" in report["power_mode"].remedy
    assert "nvzramconfig" in report["swap"].remedy
    assert "jetson_clocks" in report["gpu_clocks"].remedy
    assert "CUDA" in report["build"].remedy


def test_an_orin_nano_that_was_set_up_on_jetpack_7_2(found):
    report = found("orin_jetpack_7_2")
    assert "JetPack 7.2 (CUDA 13.2, TensorRT 10.16)" in report["jetpack"].seen
    for topic in ("power_mode", "cpu_clocks", "gpu_clocks", "swap", "nvmap", "io_uring"):
        assert report[topic].status == "ok", topic
    assert report["power_mode"].seen == "MAXN_SUPER"
    assert report["nvme"].status == "note"  # the slot's end, not a fault
    assert "the slot ends at 8 GT/s x4" in report["nvme"].remedy


def test_a_workstation(found):
    report = found("workstation")
    assert report["jetpack"].seen == "not a Jetson"
    assert report["cuda_driver"].status == report["tensorrt_library"].status == "ok"
    assert report["nvme"].status == "warning"
    assert "link 16 GT/s x2, the drive can 16 GT/s x4" in report["nvme"].seen
    assert report["cgroup"].status == "note"
    assert "64.00 GiB by /sys/fs/cgroup/memory/user/memory.limit" in report["cgroup"].seen
    assert report["swap"].status == "note"
    assert report["cpu_clocks"].status == "note"
    assert "power_mode" not in report
    assert "nvmap" not in report


def test_a_container(found):
    report = found("container", trial=Trial(False, None))
    assert report["memory"].status == "warning"
    assert "4.00 GiB by /sys/fs/cgroup/memory.max" in report["cgroup"].seen
    assert report["disk"].status == "note"
    assert report["o_direct"].status == "warning"
    assert "overlay at /" in report["o_direct"].seen
    assert "O_DIRECT only" in report["io_uring"].seen


def check(findings):
    """Each says why, and what to do if anything is not as it should be; nothing is fatal."""
    for finding in findings:
        assert finding.seen
        assert finding.why
        assert finding.remedy or finding.status == "ok", finding
    assert not has_problem(findings)


@pytest.mark.parametrize("name", MACHINES)
def test_every_finding_says_why_and_what_to_do(found, name):
    check(list(found(name).values()))


def test_a_machine_that_shows_nothing_is_not_called_well(tmp_path):
    findings = examine_machine(Machine.at(tmp_path / "none"), CORE, "/", Trial(None, None, "x"))
    check(findings)
    notes = {finding.topic for finding in findings if finding.status == "note"}
    assert notes >= {"memory", "swap", "cgroup", "disk"}


def test_packs_on_another_disk(found):
    path = "sys/dev/block/259:1/uevent"
    plain = found(
        "container",
        {
            "proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n",
            "sys/dev/block/8:1/uevent": "DEVNAME=sda1\n",
        },
    )
    assert plain["disk"].status == "note"
    assert plain["disk"].seen == "/data/packs lies on sda1; no NVMe drive to be seen"
    for device in ("sda1", "mmcblk0p1"):
        other = found("orin_jetpack_6_2", {path: f"DEVNAME={device}\n"})["disk"]
        assert other.status == "warning"
        assert other.remedy


def test_clocks_of_an_orin_that_cannot_be_seen(found):
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    files = ("scaling_governor", "scaling_min_freq", "scaling_max_freq")
    for hidden in (files, files[1:]):
        report = found("orin_jetpack_6_2", {f"{policy}/{name}": None for name in hidden})
        assert report["cpu_clocks"].status == "note"
        assert "not to be seen" in report["cpu_clocks"].seen


@pytest.mark.parametrize("path", sorted(MACHINES["orin_jetpack_6_2"]()))
@pytest.mark.parametrize("text", [None, "", "\ufffd:\n::"])
def test_any_missing_or_strange_file_is_lived_with(found, path, text):
    check(list(found("orin_jetpack_6_2", {path: text}).values()))


def test_an_old_or_unknown_jetpack(found):
    path = "etc/nv_tegra_release"
    old = found("orin_jetpack_6_2", {path: "# R35 (release), REVISION: 6.0, GCID: 1\n"})
    assert old["jetpack"].status == "warning"
    new = found("orin_jetpack_6_2", {path: "# R45 (release), REVISION: 1.0, GCID: 1\n"})
    assert new["jetpack"].status == "note"
    check(list(new.values()))
    assert l4t_release("# something else") is None


def command(*words):
    return CliRunner().invoke(app, ["doctor", *map(str, words)])


def test_the_command_prints_json_and_ends_with_1_only_on_a_problem(monkeypatch):
    bad = Finding("build", "problem", "cannot be loaded", "why", "do this")
    good = Finding("swap", "warning", "zram", "why", "do that")
    for findings, code in (([good], 0), ([good, bad], 1)):
        monkeypatch.setattr(doctor_command, "examine", lambda pack, found=findings: found)
        done = command("--json")
        assert done.exit_code == code
        assert json.loads(done.stdout) == {
            "ok": code == 0,
            "findings": [finding.as_dict() for finding in findings],
        }
        table = command().stdout
        assert "remedy: do that" in table
        assert f"1 warning, {code} problem" in table


def test_this_machine_can_be_examined(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    findings = examine()
    assert {"system", "memory", "o_direct", "build"} <= {finding.topic for finding in findings}
    assert list(tmp_path.iterdir()) == []
    (pack,) = (f for f in examine(tmp_path) if f.topic == "pack")
    assert pack.status == "problem"
    assert "manifest.json" in pack.seen
