# SPDX-License-Identifier: Apache-2.0
"""When a worker that builds an engine is ended for the memory it takes."""

import pytest

from adapmoe.machine.procfs import KernelTree
from adapmoe.tensorrt.worker_pool import reason_to_end

MIB = 1 << 20


@pytest.fixture
def reason(tmp_path):
    """Of a worker with 100 MiB in resident memory, where so much of the machine's is available."""

    def look(available, limit, pid=77):
        process = tmp_path / "proc/77"
        process.mkdir(parents=True, exist_ok=True)
        (process / "status").write_text("Name:\tpython3\nVmRSS:\t  102400 kB\n")
        if available is not None:
            text = f"MemTotal: 99999999 kB\nMemAvailable: {available // 1024} kB\n"
            (tmp_path / "proc/meminfo").write_text(text)
        return reason_to_end(KernelTree(tmp_path), pid, limit)

    return look


def test_a_worker_goes_on_within_its_limit(reason):
    assert reason(None, 100 * MIB) == ""
    assert reason(256 * MIB, 100 * MIB) == ""


def test_its_resident_memory_is_limited(reason):
    text = "the worker took 100.00 MiB, more than 99.00 MiB of memory"
    assert reason(10**10, 99 * MIB).startswith(text)


def test_memory_of_the_gpu_shows_in_what_the_machine_has_left(reason):
    text = reason(255 * MIB, 1 << 40)
    assert text.startswith(
        "255.00 MiB of memory were left (MemAvailable, cgroups), less than 256.00 MiB"
    )
    assert "100.00 MiB of its own and perhaps more on the GPU" in text


def test_a_worker_that_is_gone_takes_nothing(reason):
    assert reason(10**10, 1, pid=78) == ""


def test_the_limit_of_a_cgroup_counts_too(reason, tmp_path):
    group = tmp_path / "sys/fs/cgroup/a"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{900 * MIB}\n")
    (group / "memory.current").write_text(f"{800 * MIB}\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a\n")
    assert reason(10**10, 1 << 40).startswith("100.00 MiB of memory were left")
    (group / "memory.stat").write_text(f"active_file {300 * MIB}\n")  # a cache can be dropped
    assert reason(10**10, 1 << 40) == ""
