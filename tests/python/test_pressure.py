# SPDX-License-Identifier: Apache-2.0
"""How short memory is, from made-up kernel files of cgroup v2, v1 and neither."""

import mmap

import pytest

from adapmoe.machine.pressure import MOST_BELOW_LIMIT, MemoryWatch
from adapmoe.machine.procfs import KernelTree

MIB = 1 << 20


class Clock:
    now = 50.0

    def __call__(self):
        return self.now


class Machine:
    """Kernel files below a folder, and a watch on them."""

    def __init__(self, root):
        self.root = root
        self.clock = Clock()
        self.available(8192 * MIB)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def available(self, count):
        self.write("proc/meminfo", f"MemTotal: 16777216 kB\nMemAvailable: {count // 1024} kB\n")

    def pressure(self, some_us, path="proc/pressure/memory"):
        averages = "avg10=0.00 avg60=0.00 avg300=0.00"
        self.write(path, f"some {averages} total={some_us}\nfull {averages} total=0\n")

    def group(self, limit, current):
        """Puts the process into a group of cgroup v2."""
        self.write("proc/self/cgroup", "0::/system.slice/adapmoe.service\n")
        self.write(
            "proc/self/mountinfo",
            "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
        )
        at = "sys/fs/cgroup/system.slice/adapmoe.service"
        self.write(f"{at}/memory.max", f"{limit}\n")
        self.write(f"{at}/memory.current", f"{current}\n")
        self.write(f"{at}/memory.stat", "anon 0\n")
        return at

    def watch(self, keep_free=512 * MIB):
        return MemoryWatch(keep_free, KernelTree(self.root), self.clock)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_what_is_available_beyond_what_is_to_stay_free_is_spare(machine):
    state = machine.watch().look()
    assert (state.room_bytes, state.spare_bytes) == (8192 * MIB, (8192 - 512) * MIB)
    machine.available(100 * MIB)
    assert machine.watch().look().spare_bytes == (100 - 512) * MIB


@pytest.mark.parametrize(("keep_free", "kept"), [(512 * MIB, MOST_BELOW_LIMIT), (MIB, MIB)])
def test_below_the_limit_of_a_group_less_need_stay_free(machine, keep_free, kept):
    machine.group(limit=1000 * MIB, current=700 * MIB)
    state = machine.watch(keep_free).look()
    assert state.room_bytes == 300 * MIB
    assert state.spare_bytes == 300 * MIB - kept


def test_the_scarcer_of_machine_and_group_counts(machine):
    machine.group(limit=4000 * MIB, current=0)
    machine.available(600 * MIB)
    assert machine.watch().look().spare_bytes == 88 * MIB


def test_what_others_are_about_to_take_is_not_spare(machine):
    watch = machine.watch()
    machine.clock.now += 0.1
    machine.available(8092 * MIB)  # 1000 MiB/s
    assert watch.look().spare_bytes == (8092 - 512 - 1000) * MIB
    machine.clock.now += 0.5
    assert watch.look().spare_bytes == (8092 - 512 - 500) * MIB  # nothing more: that fades
    machine.clock.now += 10
    assert watch.look().spare_bytes == pytest.approx((8092 - 512) * MIB, abs=MIB)
    machine.clock.now += 0.1
    machine.available(9000 * MIB)
    assert watch.look().spare_bytes == pytest.approx((9000 - 512) * MIB, abs=MIB)


def test_what_this_process_takes_is_no_surprise(machine):
    pages = (100 * MIB) // mmap.PAGESIZE
    machine.write("proc/self/statm", "9 0 0 0 0 0 0\n")
    watch = machine.watch()
    machine.clock.now += 0.1
    machine.available(8092 * MIB)
    machine.write("proc/self/statm", f"9 {pages} 0 0 0 0 0\n")
    assert watch.look().spare_bytes == (8092 - 512) * MIB


def test_stalls_are_those_since_the_last_look(machine):
    machine.pressure(5_000_000)
    watch = machine.watch()
    seen = []
    for seconds, total in [(1.0, 5_000_000), (1.0, 5_250_000), (0.5, 5_750_000), (1.0, 9_999_999)]:
        machine.clock.now += seconds
        machine.pressure(total)
        seen.append(watch.look().stalled)
    assert seen == [0.0, 0.25, 1.0, 1.0]


def test_the_pressure_of_the_own_group_counts_too(machine):
    at = machine.group(limit=1000 * MIB, current=0)
    machine.pressure(0)
    machine.pressure(0, f"{at}/memory.pressure")
    watch = machine.watch()
    machine.clock.now += 1.0
    machine.pressure(400_000, f"{at}/memory.pressure")
    assert watch.look().stalled == 0.4


@pytest.mark.parametrize("text", ["", "some\n", "some total=\n", "some total=-5\n", "full total=7"])
def test_a_kernel_that_tells_no_pressure_has_none(machine, text):
    machine.write("proc/pressure/memory", text)
    watch = machine.watch()
    machine.clock.now += 1.0
    assert watch.look().stalled == 0.0


def test_where_nothing_is_known_nothing_is_short(tmp_path):
    state = MemoryWatch(512 * MIB, KernelTree(tmp_path / "nothing")).look()
    assert (state.room_bytes, state.spare_bytes, state.stalled) == (0, 0, 0.0)


def test_this_machine_has_room(tmp_path):
    state = MemoryWatch(0).look()
    assert state.room_bytes > 0
    assert state.spare_bytes == state.room_bytes
    assert 0.0 <= state.stalled <= 1.0
