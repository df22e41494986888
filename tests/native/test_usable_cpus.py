# SPDX-License-Identifier: Apache-2.0
"""The CPU time that made-up cgroup trees allow, both versions, and the threads that fit into it."""

import os

import pytest

from adapmoe import _core, _testing
from support.machine.machines import build

V2 = {"proc/self/cgroup": "0::/user/job"}
V1 = {"proc/self/cgroup": "4:memory:/other\n3:cpu,cpuacct:/job"}
HYBRID = {"proc/self/cgroup": "3:cpu,cpuacct:/job\n0::/user"}
USER, JOB = "sys/fs/cgroup/user", "sys/fs/cgroup/cpu/job"


def v1(folder, quota, period="100000"):
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({**V2, f"{USER}/job/cpu.max": "max 100000"}, None),
        ({**V2, f"{USER}/job/cpu.max": "250000 100000"}, 2.5),
        ({**V2, f"{USER}/job/cpu.max": "50000 100000"}, 0.5),
        ({**V2, f"{USER}/cpu.max": "300000 100000"}, 3),  # of a parent
        ({**V2, f"{USER}/cpu.max": "100000 100000", f"{USER}/job/cpu.max": "200000 100000"}, 1),
        ({**V2, f"{USER}/cpu.max": "200000 100000", f"{USER}/job/cpu.max": "100000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/docker/1", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({**V2, f"{USER}/job/cpu.max": "damaged"}, None),
        ({**V2, f"{USER}/job/cpu.max": "50000"}, None),
        ({**V2, f"{USER}/job/cpu.max": "50000 0"}, None),
        ({**V1, **v1(JOB, "400000")}, 4),
        ({**V1, **v1(JOB, "25000", "50000")}, 0.5),
        ({**V1, **v1(JOB, "-1")}, None),
        ({**V1, **v1("sys/fs/cgroup/cpu", "50000"), **v1(JOB, "-1")}, 0.5),  # of a parent
        ({**V1, **v1("sys/fs/cgroup/memory/other", "50000")}, None),  # another controller's
        ({**V1, f"{JOB}/cpu.cfs_quota_us": "400000"}, None),
        ({**HYBRID, **v1(JOB, "200000"), f"{USER}/cpu.max": "300000 100000"}, 2),
        ({"proc/self/cgroup": "no cgroup line\n0::/user", f"{USER}/cpu.max": "1000 1000"}, 1),
    ],
)
def test_the_least_quota_of_all_groups_and_their_parents_binds(tmp_path, files, cores):
    build(tmp_path, files)
    assert _testing.cpu_quota(str(tmp_path)) == cores


@pytest.mark.parametrize(
    ("cores", "quota", "threads"),
    [
        (8, None, 8),
        (8, 0.5, 1),  # never none
        (8, 0.01, 1),
        (8, 1.0, 1),
        (8, 1.9, 1),
        (8, 2.0, 2),
        (8, 3.5, 3),
        (2, 64.0, 2),  # more than there are
        (2, 1e300, 2),
        (0, None, 1),
    ],
)
def test_threads_are_the_cores_or_the_quota_rounded_down(cores, quota, threads):
    assert _testing.cpus_within(cores, quota) == threads


def test_the_affinity_of_this_process_binds():
    allowed = os.sched_getaffinity(0)
    assert 1 <= _core.usable_cpus() <= len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert _core.usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)
