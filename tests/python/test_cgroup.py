# SPDX-License-Identifier: Apache-2.0
"""How many cores the cgroups of this process leave it."""

import os

import pytest

from adapmoe.machine.procfs import KernelTree, usable_cpus
from support.machine.machines import build

V2 = {"proc/self/cgroup": "0::/user/job"}
V1 = {"proc/self/cgroup": "4:memory:/other\n3:cpu,cpuacct:/job"}
JOB = "sys/fs/cgroup/cpu/job"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({**V2, "sys/fs/cgroup/user/job/cpu.max": "max 100000"}, 8),
        ({**V2, "sys/fs/cgroup/user/job/cpu.max": "250000 100000"}, 2),
        ({**V2, "sys/fs/cgroup/user/cpu.max": "300000 100000"}, 3),  # of a parent
        ({**V2, "sys/fs/cgroup/user/job/cpu.max": "50000 100000"}, 1),  # never none
        ({**V2, "sys/fs/cgroup/user/job/cpu.max": "damaged"}, 8),
        ({**V2, "sys/fs/cgroup/user/job/cpu.max": "9900000 100000"}, 8),  # more than there are
        ({**V1, f"{JOB}/cpu.cfs_quota_us": "400000", f"{JOB}/cpu.cfs_period_us": "100000"}, 4),
        ({**V1, f"{JOB}/cpu.cfs_quota_us": "-1", f"{JOB}/cpu.cfs_period_us": "100000"}, 8),
        ({**V1, f"{JOB}/cpu.cfs_quota_us": "400000"}, 8),
    ],
)
def test_usable_cpus(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert usable_cpus(KernelTree(build(tmp_path, files))) == cores
