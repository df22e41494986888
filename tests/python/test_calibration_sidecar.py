# SPDX-License-Identifier: Apache-2.0
import json
import os
import shutil

import numpy as np
import pytest

from adapmoe.errors import CalibrationError
from adapmoe.opening.allocation import CalibrationFacts, check_allocation
from adapmoe.opening.gating import FirstLayer, choose_first_layer, choose_gating
from adapmoe.pack.calibration import (
    FILE,
    GATE_FILE,
    read_calibration,
    read_first_layer_gate,
    write_calibration,
)
from support.packs.calibrations import PAYS, PAYS_NOT, make_calibration

GATE = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def pack(tmp_path):
    """As much of a pack as a sidecar looks at."""
    folder = tmp_path / "a.adapmoe"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


def test_what_is_written_is_read(pack):
    written = write_calibration(pack, make_calibration(), GATE)
    found = read_calibration(pack)
    assert found == written
    assert found.first_layer_gate.accuracy == 0.5
    assert np.array_equal(read_first_layer_gate(pack, found), GATE)
    assert sorted(p.name for p in pack.iterdir()) == [FILE, GATE_FILE, "manifest.json"]


def test_the_calibration_of_another_pack_is_refused(pack, tmp_path):
    write_calibration(pack, make_calibration(), GATE)
    other = tmp_path / "b.adapmoe"
    shutil.copytree(pack, other)
    (other / "manifest.json").write_text('{"changed": 1}')
    for use in (
        lambda: read_calibration(other),
        lambda: choose_gating(other, "sensitivity", None, ()),
        lambda: choose_first_layer(other, 1, "both"),
        lambda: check_allocation(other, "dp"),
    ):
        with pytest.raises(CalibrationError, match=r"another pack.*calibrate again"):
            use()


def test_another_version_and_damage_are_refused(pack):
    write_calibration(pack, make_calibration(), GATE)
    path = pack / FILE
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"format_version": 2}))
    with pytest.raises(CalibrationError, match="version 1"):
        read_calibration(pack)
    for text in ("{", "", '{"gating": ' + "[" * 100_000, "\xff", "NaN"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(CalibrationError, match=r"cannot be read as JSON.*calibrate again"):
            read_calibration(pack)


def drop(*path):
    def change(found):
        *parents, last = path
        for name in parents:
            found = found[name]
        del found[last]

    return change


def put(value, *path):
    def change(found):
        *parents, last = path
        for name in parents:
            found = found[name]
        found[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (drop("routing"), "routing"),
        (drop("gating", "sensitivity", "pays"), r"pays.*\$\.gating\.sensitivity"),
        (drop("predictor", "as_is", "1"), "depth 1"),
        (put("fisher", "gating", "method"), "method 'fisher'"),
        (put("0.5", "gating", "sensitivity", "threshold"), r"\$\.gating\.sensitivity\.threshold"),
        (put(True, "single_ratio", 1), r"\$\.single_ratio\[1\]"),
        (
            put(None, "sensitivity", "direct", "values", 0),
            r"\.values\[0\]",
        ),
        (put(float("nan"), "single_ratio", 0), "malformed"),
        (put(float("inf"), "single_ratio", 0), "malformed"),
        (put(10**400, "single_ratio", 0), "out of range"),
        (put("../gate.npy\n", "first_layer_gate", "sha256"), r"\$\.first_layer_gate\.sha256"),
    ],
)
def test_a_field_that_is_not_as_it_should_be_is_named(pack, change, where):
    write_calibration(pack, make_calibration(), GATE)
    found = json.loads((pack / FILE).read_text())
    change(found)
    (pack / FILE).write_text(json.dumps(found))
    wanted = rf"calibration\.json: .*{where}.*calibrate again"
    for use in (
        lambda: read_calibration(pack),
        lambda: choose_gating(pack, "sensitivity", None, ()),
        lambda: CalibrationFacts.of(pack),
    ):
        with pytest.raises(CalibrationError, match=wanted):
            use()


def test_planning_refuses_rows_of_different_lengths(pack):
    write_calibration(pack, make_calibration(), GATE)
    found = json.loads((pack / FILE).read_text())
    found["routing"]["expert_frequency"][1].pop()
    (pack / FILE).write_text(json.dumps(found))
    with pytest.raises(CalibrationError, match=r"expert_frequency.*calibrate the pack again"):
        CalibrationFacts.of(pack)


def test_what_a_later_version_adds_is_passed_over(pack):
    written = write_calibration(pack, make_calibration(), GATE)
    found = json.loads((pack / FILE).read_text())
    found["gating"]["more"] = found["more"] = 1
    (pack / FILE).write_text(json.dumps(found))
    assert read_calibration(pack) == written


def test_the_file_is_sorted_json_without_what_was_not_measured(pack):
    write_calibration(pack, make_calibration(residency=PAYS_NOT), GATE)
    text = (pack / FILE).read_text()
    found = json.loads(text)
    assert text == json.dumps(found, indent=1, sort_keys=True) + "\n"
    assert found["gating"]["residency"] == {
        "activations_saved": 0.01,
        "pays": False,
        "threshold": 0.0,
    }
    assert "memory_fraction" not in found["gating"]
    assert found["rank_correlation"] is None
    assert found["predictor"]["as_is"] == {"1": [None, 0.5], "2": [None, None]}
    assert found["first_layer_gate"]["file"] == GATE_FILE


def test_what_is_no_number_is_not_written(pack):
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        write_calibration(pack, make_calibration(accuracy=float("nan")), GATE)
    assert [path.name for path in pack.iterdir()] == ["manifest.json"]


def test_a_gate_that_is_not_the_one_named_is_refused(pack):
    found = write_calibration(pack, make_calibration(), GATE)
    np.save(pack / GATE_FILE, GATE + 1)
    with pytest.raises(CalibrationError, match="SHA-256"):
        read_first_layer_gate(pack, found)
    (pack / GATE_FILE).unlink()
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_first_layer_gate(pack, found)


def test_a_failed_write_leaves_the_old_file(pack, monkeypatch):
    before = write_calibration(pack, make_calibration(), GATE)

    def full_disk(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CalibrationError, match="No space left"):
        write_calibration(pack, make_calibration(residency=PAYS), GATE)
    assert read_calibration(pack) == before
    assert len(list(pack.iterdir())) == 3


def test_gating_needs_a_calibration_or_everything_given(pack):
    assert choose_gating(pack, "off", None, ()).threshold == 0
    with pytest.raises(CalibrationError, match="adapmoe calibrate"):
        choose_gating(pack, "sensitivity", None, ())
    with pytest.raises(ValueError, match="gating_threshold"):
        choose_gating(pack, "sensitivity", None, [1.0, 1.0])
    given = choose_gating(pack, "residency", 0.5, [3.0, 4.0])
    assert (given.threshold, given.sensitivity) == (0.5, [3.0, 4.0])


def test_gating_takes_from_the_calibration_what_is_not_given(pack):
    write_calibration(pack, make_calibration(), GATE)
    calibrated = choose_gating(pack, "sensitivity", None, ())
    assert (calibrated.threshold, calibrated.sensitivity) == (0.25, [1.0, 2.0])
    assert choose_gating(pack, "sensitivity", 0.125, ()).threshold == 0.125
    with pytest.raises(CalibrationError, match="no threshold for gating='residency'"):
        choose_gating(pack, "residency", None, ())


def test_gating_that_does_not_pay_is_said(pack, caplog):
    write_calibration(pack, make_calibration(residency=PAYS_NOT), GATE)
    assert choose_gating(pack, "residency", None, ()).threshold == 0
    assert "does not pay" in caplog.text


def test_the_first_layer_gate_is_used_with_prefetch_only(pack):
    assert choose_first_layer(pack, 1, "both") == FirstLayer([], True)
    write_calibration(pack, make_calibration(), GATE)
    trained = GATE.reshape(-1).tolist()
    assert choose_first_layer(pack, 0, "both").gate == []
    assert choose_first_layer(pack, 1, "both") == FirstLayer(trained, True)
    assert choose_first_layer(pack, 1, "hidden") == FirstLayer(trained, False)
    assert choose_first_layer(pack, 1, "embedding") == FirstLayer([], True)
    assert choose_first_layer(pack, 1, "none") == FirstLayer([], False)


def test_only_dp_needs_a_calibration(pack):
    check_allocation(pack, "global")
    check_allocation(pack, "uniform")
    with pytest.raises(CalibrationError, match="missing"):
        check_allocation(pack, "dp")
