# SPDX-License-Identifier: Apache-2.0
"""available_memory over made-up /proc and cgroup trees, both versions."""

import pytest

from adapmoe import _testing

MIB = 1 << 20


@pytest.fixture
def trees(tmp_path):
    """Write a /proc and a cgroup tree; returns what available_memory says of them."""

    def measure(cgroup_lines, files, mem_available=1000 * MIB):
        proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        cgroup.mkdir()
        (proc / "meminfo").write_text(
            f"MemTotal:       99999999 kB\nMemAvailable: {mem_available // 1024} kB\nCached: 1 kB\n"
        )
        (proc / "self/cgroup").write_text("".join(line + "\n" for line in cgroup_lines))
        for name, content in files.items():
            path = cgroup / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return _testing.available_memory(str(proc), str(cgroup))

    return measure


def v2(folder, limit, used, inactive=0):
    prefix = f"{folder}/" if folder else ""
    return {
        f"{prefix}memory.max": limit,
        f"{prefix}memory.current": used,
        f"{prefix}memory.stat": f"anon 12345\nfile 777\ninactive_file {inactive}\nslab 5",
    }


def v1(folder, limit, used, inactive=0):
    prefix = f"memory/{folder}/" if folder else "memory/"
    return {
        f"{prefix}memory.limit_in_bytes": limit,
        f"{prefix}memory.usage_in_bytes": used,
        f"{prefix}memory.stat": f"cache 1\ninactive_file 9\ntotal_inactive_file {inactive}",
    }


def test_without_cgroups_it_is_mem_available(trees):
    assert trees([], {}) == 1000 * MIB


def test_a_larger_cgroup_does_not_help(trees):
    assert trees(["0::/a"], v2("a", 5000 * MIB, 10 * MIB)) == 1000 * MIB


def test_v2_room_is_the_limit_minus_usage(trees):
    assert trees(["0::/a"], v2("a", 500 * MIB, 120 * MIB)) == 380 * MIB


def test_v2_cache_that_can_be_dropped_is_room(trees):
    assert trees(["0::/a"], v2("a", 500 * MIB, 420 * MIB, 300 * MIB)) == 380 * MIB


def test_v2_max_is_no_limit(trees):
    assert trees(["0::/a"], v2("a", "max", 120 * MIB)) == 1000 * MIB


@pytest.mark.parametrize(
    "tight", ["system.slice", "system.slice/x.service", "system.slice/x.service/in"]
)
def test_v2_the_tightest_ancestor_binds(trees, tight):
    files = {}
    for folder in ("system.slice", "system.slice/x.service", "system.slice/x.service/in"):
        files |= v2(folder, 300 * MIB if folder == tight else "max", 100 * MIB)
    assert trees(["0::/system.slice/x.service/in"], files) == 200 * MIB


def test_v2_nested_limits_do_not_add_up(trees):
    files = v2("a", 800 * MIB, 700 * MIB) | v2("a/b", 600 * MIB, 100 * MIB)
    assert trees(["0::/a/b"], files) == 100 * MIB


def test_v2_in_a_cgroup_namespace_the_mount_is_our_group(trees):
    assert trees(["0::/"], v2("", 256 * MIB, 56 * MIB)) == 200 * MIB


def test_v2_in_a_container_that_shows_the_hosts_path(trees):
    files = v2("", 256 * MIB, 56 * MIB)
    assert trees(["0::/docker/0123abcd"], files) == 200 * MIB


def test_v2_usage_above_the_limit_leaves_nothing(trees):
    assert trees(["0::/a"], v2("a", 100 * MIB, 130 * MIB)) == 0


def test_v1_memory_controller(trees):
    lines = ["5:cpu,cpuacct:/a", "4:hugetlb,memory:/a/b", "1:name=systemd:/z"]
    files = v1("a", 700 * MIB, 400 * MIB, 60 * MIB) | v1("a/b", 9223372036854771712, 300 * MIB)
    assert trees(lines, files) == 360 * MIB


def test_v1_other_controllers_do_not_count(trees):
    assert trees(["5:cpu:/a", "6:memoryless:/a"], v1("a", 10 * MIB, 0)) == 1000 * MIB


def test_hybrid_uses_the_controller_that_has_memory(trees):
    lines = ["9:memory:/a", "0::/a"]
    assert trees(lines, v1("a", 90 * MIB, 20 * MIB)) == 70 * MIB


def test_unreadable_numbers_are_no_limit(trees):
    files = v2("a", "garbage", 1) | {"a/b/memory.max": 5}
    assert trees(["0::/a/b", "not a cgroup line"], files) == 1000 * MIB


def test_this_machine_has_some():
    assert _testing.available_memory("/proc", "/sys/fs/cgroup") > 0
