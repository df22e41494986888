# SPDX-License-Identifier: Apache-2.0
"""available_memory over made-up /proc and cgroup trees, both versions."""

import os

import pytest

from adapmoe import _core
from support.machine.machines import build

MIB = 1 << 20


@pytest.fixture
def root(tmp_path):
    """Write a tree of /proc and /sys; returns the root as the core takes it."""

    def write(cgroup_lines, files, mem_available=1000 * MIB, mounts=None):
        meminfo = f"MemTotal:       99999999 kB\nMemAvailable: {mem_available // 1024} kB\n"
        own = "".join(line + "\n" for line in cgroup_lines)
        files = {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
        files |= {"proc/meminfo": meminfo, "proc/self/cgroup": own}
        if mounts is not None:
            files["proc/self/mountinfo"] = "".join(line + "\n" for line in mounts)
        return str(build(tmp_path, {name: f"{content}\n" for name, content in files.items()}))

    return write


@pytest.fixture
def trees(root):
    """What available_memory says of such a tree."""
    return lambda *args, **options: _core.available_memory(root(*args, **options))


def stat(**values):
    return "anon 12345\n" + "\n".join(f"{name} {value}" for name, value in values.items())


def v2(folder, limit, used, **stats):
    prefix = f"{folder}/" if folder else ""
    return {
        f"{prefix}memory.max": limit,
        f"{prefix}memory.current": used,
        f"{prefix}memory.stat": stat(file=777, **stats, slab=5),
    }


def v1(folder, limit, used, **stats):
    prefix = f"memory/{folder}/" if folder else "memory/"
    totals = {f"total_{name}": value for name, value in stats.items()}
    return {
        f"{prefix}memory.limit_in_bytes": limit,
        f"{prefix}memory.usage_in_bytes": used,
        f"{prefix}memory.stat": stat(cache=1, inactive_file=9, active_file=9, **totals),
    }


# What of 420 MiB in use is free all the same.
RECLAIMABLE = [
    ({"inactive_file": 300 * MIB}, 300),
    ({"active_file": 300 * MIB}, 300),  # read twice
    ({"inactive_file": 100 * MIB, "active_file": 250 * MIB}, 350),
    ({"shmem": 300 * MIB, "unevictable": 50 * MIB, "inactive_anon": 300 * MIB}, 0),
    ({"inactive_file": 300 * MIB, "DIRTYdirty": 60 * MIB, "DIRTYwriteback": 40 * MIB}, 200),
    ({"inactive_file": 30 * MIB, "DIRTYdirty": 60 * MIB}, 0),
    ({"inactive_file": 10**18, "active_file": 10**18}, 420),  # absurd: at most what is in use
    ({"inactive_file": 9223372036854775807, "active_file": 9223372036854775807}, 420),
    ({"inactive_file": -5}, 0),
    ({"inactive_file": 99999999999999999999999}, 0),
]


@pytest.mark.parametrize(("stats", "free"), RECLAIMABLE)
def test_v2_what_the_kernel_can_take_back_is_room(trees, stats, free):
    stats = {name.replace("DIRTY", "file_"): value for name, value in stats.items()}
    assert trees(["0::/a"], v2("a", 500 * MIB, 420 * MIB, **stats)) == (80 + free) * MIB


@pytest.mark.parametrize(("stats", "free"), RECLAIMABLE)
def test_v1_what_the_kernel_can_take_back_is_room(trees, stats, free):
    stats = {name.replace("DIRTY", ""): value for name, value in stats.items()}
    assert trees(["4:memory:/a"], v1("a", 500 * MIB, 420 * MIB, **stats)) == (80 + free) * MIB


def test_v2_half_of_the_reclaimable_slab_is_room(trees):
    files = v2("a", 500 * MIB, 420 * MIB, active_file=100 * MIB, slab_reclaimable=50 * MIB)
    assert trees(["0::/a"], files) == 205 * MIB


@pytest.mark.parametrize(
    ("high", "room"), [("max", 380), (300 * MIB, 180), (900 * MIB, 380), (0, 0)]
)
def test_v2_above_memory_high_a_process_is_stalled(trees, high, room):
    files = v2("a", 500 * MIB, 120 * MIB) | {"a/memory.high": high}
    assert trees(["0::/a"], files) == room * MIB


def test_v2_memory_high_of_a_parent(trees):
    files = v2("a", "max", 120 * MIB) | {"a/memory.high": 200 * MIB} | v2("a/b", "max", MIB)
    assert trees(["0::/a/b"], files) == 80 * MIB


def test_v1_memory_and_swap_together_may_be_limited(trees):
    files = v1("a", 500 * MIB, 100 * MIB, active_file=50 * MIB)
    files["memory/a/memory.memsw.limit_in_bytes"] = 600 * MIB
    files["memory/a/memory.memsw.usage_in_bytes"] = 400 * MIB  # 300 are swapped out
    assert trees(["4:memory:/a"], files) == 250 * MIB


def test_v1_the_limit_of_a_parent_that_cannot_be_seen(trees):
    files = v1("", 9223372036854771712, 100 * MIB, active_file=50 * MIB)
    files["memory/memory.stat"] += f"\nhierarchical_memory_limit {300 * MIB}"
    mounts = ["30 1 0:5 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"]
    assert trees(["4:memory:/docker/x"], files, mounts=mounts) == 250 * MIB


def test_a_group_that_does_not_tell_its_usage_has_at_most_its_limit(trees):
    assert trees(["0::/a"], {"a/memory.max": 200 * MIB}) == 200 * MIB
    assert trees(["4:memory:/a"], {"memory/a/memory.limit_in_bytes": 100 * MIB}) == 100 * MIB


CGROUP2 = "30 1 0:5 {root} {point} rw,relatime shared:9 - cgroup2 cgroup2 rw"
MEMORY = "30 1 0:5 {root} {point} rw - cgroup cgroup rw,memory"


@pytest.mark.parametrize(
    ("path", "root_of_mount", "folder", "limited"),
    [
        ("/a", "/", "a", True),
        ("/a/b", "/", "a", True),  # a parent
        ("/a/b", "/a", "b", True),  # the mount begins further down
        ("/docker/x", "/docker/x", "", True),
        ("/", "/", "", True),  # a cgroup namespace
        ("/", "/..", "", True),  # mounted outside of our namespace: a parent of ours
        ("/", "/../..", "", True),
        ("/a", "/..", "", True),
        ("/../../other", "/", "", False),  # we are outside of what is mounted
        ("/..", "/", "", False),
        ("/../other", "/../other", "", True),
        ("/", "/../other", "", False),
        ("/a/b", "/c", "", True),  # a container that names its group otherwise
        ("/a (deleted)", "/", "a (deleted)", True),
        ("/a:b", "/", "a:b", True),
        ("/a//b/", "/a", "b", True),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_where_a_group_is_found_in_what_is_mounted(
    trees, version, path, root_of_mount, folder, limited
):
    line, files, mount = ("0::", v2, CGROUP2) if version == 2 else ("4:memory:", v1, MEMORY)
    point = "/sys/fs/cgroup" if version == 2 else "/sys/fs/cgroup/memory"
    mounts = [
        "29 1 0:4 / / rw - ext4 /dev/sda1 rw",
        mount.format(root=root_of_mount.replace(" ", "\\040"), point=point),
        "nonsense",
    ]
    found = trees([line + path], files(folder, 300 * MIB, 100 * MIB), mounts=mounts)
    assert found == (200 if limited else 1000) * MIB


def test_other_mount_points_and_escaped_names(trees):
    files = v2("my unified/a\\x2d", 300 * MIB, 100 * MIB)
    mounts = [CGROUP2.format(root="/", point="/sys/fs/cgroup/my\\040unified")]
    assert trees(["0::/a\\x2d"], files, mounts=mounts) == 200 * MIB


def test_hybrid_with_the_memory_controller_in_v2(trees):
    mounts = [
        "31 1 0:6 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct",
        CGROUP2.format(root="/", point="/sys/fs/cgroup/unified"),
    ]
    files = v2("unified/a", 300 * MIB, 100 * MIB) | v2("a", 1, 1)
    assert trees(["3:cpu,cpuacct:/a", "0::/a"], files, mounts=mounts) == 200 * MIB


def test_without_meminfo_it_is_what_is_free(tmp_path):
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    assert 0 < _core.available_memory(str(tmp_path)) <= total


def test_limits_are_told_with_their_files(root):
    files = v2("a", 500 * MIB, 120 * MIB) | {"a/memory.high": 400 * MIB} | v2("", "max", 1)
    tree = root(["0::/a"], files)
    assert _core.memory_limits(tree) == [
        (f"{tree}/sys/fs/cgroup/a/memory.max", 500 * MIB, 380 * MIB),
        (f"{tree}/sys/fs/cgroup/a/memory.high", 400 * MIB, 280 * MIB),
    ]


def test_without_cgroups_it_is_mem_available(trees):
    assert trees([], {}) == 1000 * MIB


def test_a_larger_cgroup_does_not_help(trees):
    assert trees(["0::/a"], v2("a", 5000 * MIB, 10 * MIB)) == 1000 * MIB


def test_v2_room_is_the_limit_minus_usage(trees):
    assert trees(["0::/a"], v2("a", 500 * MIB, 120 * MIB)) == 380 * MIB


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
    files = v1("a", 700 * MIB, 400 * MIB, inactive_file=60 * MIB) | v1(
        "a/b", 9223372036854771712, 300 * MIB
    )
    assert trees(lines, files) == 360 * MIB


def test_v1_other_controllers_do_not_count(trees):
    assert trees(["5:cpu:/a", "6:memoryless:/a"], v1("a", 10 * MIB, 0)) == 1000 * MIB


def test_hybrid_uses_the_controller_that_has_memory(trees):
    lines = ["9:memory:/a", "0::/a"]
    assert trees(lines, v1("a", 90 * MIB, 20 * MIB)) == 70 * MIB


def test_unreadable_numbers_are_no_limit(trees):
    files = v2("a", "garbage", 1) | {"a/b/memory.current": 5, "a/b/memory.max": -1}
    assert trees(["0::/a/b", "not a cgroup line"], files) == 1000 * MIB


def test_this_machine_has_some():
    assert _core.available_memory() > 0
