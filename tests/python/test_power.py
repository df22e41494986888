# SPDX-License-Identifier: Apache-2.0
"""Joules per token and throttling, on made-up machines."""

import time

import pytest

from adapmoe import SamplingParams
from adapmoe.bench.bench import summarize
from adapmoe.bench.rounds import Bound, Measurement, Round
from adapmoe.bench.workload import BASE
from adapmoe.cli.output import make_report, print_statistics
from adapmoe.doctor.jetson import examine_energy
from adapmoe.doctor.machine import Machine
from adapmoe.generation.stats import GenerationStats
from adapmoe.machine.power import PowerMeter, Rails, Rapl, Throttle, risen
from adapmoe.machine.procfs import KernelTree
from support.core.fake_session import step_stats
from support.machine.machines import MACHINES, build

INA = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
PACKAGE = "sys/class/powercap/intel-rapl:0"
DRAM = "sys/class/powercap/intel-rapl:0:1"


@pytest.fixture
def machine(tmp_path):
    """A machine's files below tmp_path, and its tree."""

    def make(name, changes=None):
        files = {**MACHINES[name](), **(changes or {})}
        return KernelTree(build(tmp_path, {p: t for p, t in files.items() if t is not None}))

    return make


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_vdd_in_is_the_whole_module(machine):
    rails = Rails.find(machine("orin_jetpack_7_2"))
    assert rails.name == "INA3221 VDD_IN"
    assert rails.watts() == pytest.approx(10.0)


def test_without_vdd_in_the_rails_are_added_but_what_is_within_another(machine):
    rails = Rails.find(machine("orin_jetpack_6_2"))
    assert rails.name == "INA3221 VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0"
    assert rails.watts() == pytest.approx(9.5 + 5.7 + 5.0)


def test_a_rail_that_vanishes_gives_no_figure(machine, tmp_path):
    tree, clock = machine("orin_jetpack_7_2"), Clock()
    meter = PowerMeter(tree, clock)
    with meter.span() as before:
        clock.now += 2
    assert before.joules == pytest.approx(20.0)
    with meter.span() as during:
        clock.now += 2
        (tmp_path / INA / "curr1_input").unlink()
    assert during.joules is None
    assert during.seconds == 2
    with meter.span() as after:
        clock.now += 2
    assert after.joules is None


def test_power_is_added_up_and_pauses_are_not(machine, tmp_path):
    clock = Clock()
    meter = PowerMeter(machine("orin_jetpack_7_2"), clock)
    with meter.span() as first:
        (tmp_path / INA / "curr1_input").write_text("4000\n")
        clock.now += 1
    assert first.joules == pytest.approx(15.0)  # from 10 W to 20 W
    clock.now += 3600
    with meter.span() as second, meter.span() as inner:
        clock.now += 1
    assert second.joules == inner.joules == pytest.approx(20.0)


def test_short_steps_miss_nothing_together(machine):
    clock = Clock()
    meter = PowerMeter(machine("orin_jetpack_7_2"), clock)
    total = 0.0
    for _ in range(1000):
        with meter.span() as step:
            clock.now += 0.003
        total += step.joules
    assert total == pytest.approx(30.0, rel=0.01)


def test_the_thread_reads_while_a_span_lasts_and_then_ends(machine, monkeypatch):
    monkeypatch.setattr("adapmoe.machine.power._PERIOD_S", 0.01)
    meter = PowerMeter(machine("orin_jetpack_7_2"))
    with meter.span() as span:
        time.sleep(0.1)
        assert meter._thread is not None
    assert span.joules == pytest.approx(10 * span.seconds, rel=0.3)
    deadline = time.monotonic() + 10
    while meter._thread is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_rapl_counts_packages_and_their_memory(machine, tmp_path):
    rapl = Rapl.find(machine("workstation"))
    assert rapl.name == "RAPL dram + package-0"
    assert rapl.joules() == 0
    (tmp_path / PACKAGE / "energy_uj").write_text("2500000\n")
    assert rapl.joules() == 1.5
    (tmp_path / DRAM / "energy_uj").write_text("2250000\n")
    assert rapl.joules() == 1.75


def test_a_counter_wraps(machine, tmp_path):
    rapl = Rapl.find(machine("workstation"))
    for value, joules in (("4900000", 3.9), ("100000", 4.1), ("99999", 9.099999)):
        (tmp_path / PACKAGE / "energy_uj").write_text(value)
        assert rapl.joules() == pytest.approx(joules)


def test_a_counter_that_falls_without_a_range_gives_no_figure(machine, tmp_path):
    rapl = Rapl.find(machine("workstation", {f"{PACKAGE}/max_energy_range_uj": None}))
    (tmp_path / PACKAGE / "energy_uj").write_text("1")
    assert rapl.joules() is None


@pytest.mark.parametrize("path", [f"{PACKAGE}/energy_uj", f"{DRAM}/energy_uj"])
def test_counters_that_may_not_be_read_are_no_source(machine, path):
    tree = machine("workstation", {path: None})  # to a reader, as without permission
    assert Rapl.find(tree) is None
    meter = PowerMeter(tree)
    assert meter.source is None
    with meter.span() as span:
        pass
    assert span.joules is None
    assert span.seconds > 0


def test_a_machine_without_any_starts_no_thread(tmp_path):
    meter = PowerMeter(KernelTree(tmp_path))
    with meter.span():
        assert meter._thread is None
    assert meter.throttle_counts() is None
    assert meter.throttled_since(None) is None


def test_cooling_counts_but_fans_do_not(machine, tmp_path):
    throttle = Throttle(machine("orin_jetpack_6_2"))
    before = throttle.counts()
    assert risen(before, throttle.counts()) == []
    (tmp_path / "sys/class/thermal/cooling_device1/cur_state").write_text("1\n")
    (tmp_path / "sys/class/hwmon/hwmon3/oc1_event_cnt").write_text("2\n")
    assert throttle.active() == ["cpu-throttle-alert"]
    assert risen(before, throttle.counts()) == ["cpu-throttle-alert", "over-current (oc1)"]


def test_x86_counts_heat(machine, tmp_path):
    meter = PowerMeter(machine("workstation"))
    before = meter.throttle_counts()
    assert before == {"cpu core heat": 7, "cpu package heat": 9}
    file = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    (tmp_path / file).write_text("8\n")
    assert meter.throttled_since(before) == ["cpu core heat"]


def test_a_sum_with_a_part_that_was_not_measured_is_none():
    stats = GenerationStats()
    assert stats.joules_per_token is None
    stats.add_prefill(step_stats(2), 2, 0.1, 5.0)
    stats.add_decode(step_stats(1), 0.1, 3.0)
    stats.add_decode(step_stats(1), 0.1, 1.0)
    assert (stats.prefill_energy_j, stats.decode_energy_j) == (5.0, 4.0)
    assert stats.joules_per_token == 2.0
    stats.add_decode(step_stats(1), 0.1, None)
    stats.add_decode(step_stats(1), 0.1, 1.0)
    assert stats.decode_energy_j is None
    assert stats.as_dict()["joules_per_token"] is None


def test_a_generation_has_joules_per_token(open_llm, machine, tmp_path, capsys):
    llm = open_llm({"step_s": 0.03})
    llm.scheduler.power = PowerMeter(KernelTree(tmp_path / "none"))
    result = llm.generate("The first", SamplingParams(max_tokens=6))
    assert result.stats.joules_per_token is None
    print_statistics(make_report(llm, result))
    assert "J per token" not in capsys.readouterr().err
    llm.scheduler.power = PowerMeter(machine("orin_jetpack_7_2"))
    result = llm.generate("The first", SamplingParams(max_tokens=6))
    seconds = result.stats.decode_s
    assert result.stats.decode_energy_j == pytest.approx(10 * seconds, rel=0.5)
    assert result.stats.throttled == []
    report = make_report(llm, result)
    assert report["stats"]["energy_source"] == "INA3221 VDD_IN"
    print_statistics(report)
    assert "J per token" in capsys.readouterr().err
    report["stats"]["throttled"] = ["cpu-throttle-alert"]
    print_statistics(report)
    assert "slowed down by" in capsys.readouterr().err


def test_bench_leaves_energy_out_where_there_is_none():
    fields = {name: 1.0 for name in Measurement.__dataclass_fields__}
    bound = Bound(0.5, True, 100.0, True)
    for joules, measured in ((2.0, True), (None, False)):
        runs = [Measurement(**(fields | {"joules_per_token": j})) for j in (2.0, joules)]
        summary = summarize([Round(bound, {BASE: run}) for run in runs])
        assert ("joules_per_token" in summary[BASE].measured) == measured


def test_doctor_says_whether_energy_can_be_measured(machine, tmp_path):
    root = tmp_path
    machine("workstation", {f"{PACKAGE}/energy_uj": None})
    energy, throttling = examine_energy(Machine.at(root))
    assert energy.status == "note"
    assert "chmod" in energy.remedy
    assert throttling.status == "ok"
    (root / "sys/class/thermal/cooling_device0").mkdir(parents=True)
    (root / "sys/class/thermal/cooling_device0/type").write_text("Processor\n")
    (root / "sys/class/thermal/cooling_device0/cur_state").write_text("2\n")
    assert examine_energy(Machine.at(root))[1].status == "warning"
