# SPDX-License-Identifier: Apache-2.0
"""`adapmoe bench` on the trained model: what it prints, not how fast it is."""

import itertools
import json

import pytest
from typer.testing import CliRunner

from adapmoe import LLM, _core
from adapmoe.bench.profile import OTHER, PARTS, PYTHON
from adapmoe.cli.main import app
from adapmoe.tracing.timeline import LANES

QUICK = ["--prompt-tokens", "8", "--warmup", "1", "--tokens", "4", "--repeat", "2"]


@pytest.fixture(scope="module")
def pack(pack_factory):
    return str(pack_factory(tile_width=64))


def bench(pack, *options):
    result = CliRunner().invoke(app, ["bench", pack, "--experts-resident", "50%", *QUICK, *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_report_holds_together(pack):
    report = json.loads(bench(pack, "--json"))
    assert report["workload"] == {"prompt_tokens": 8, "warm_up_tokens": 1, "tokens": 4}
    assert report["repeat"] == 2
    assert report["bound"]["all_resident"]
    base = report["variants"]["base"]
    assert base["activations_per_token"]["median"] == 16
    assert 0 < base["hit_rate"]["median"] < 1
    assert base["bytes_per_token"]["median"] > 0
    for spread in base.values():
        assert spread["least"] <= spread["median"] <= spread["most"]


@pytest.mark.slow
def test_an_ablation_does_the_same_work_everywhere(pack):
    report = json.loads(bench(pack, "--ablation", "--json"))
    variants = report["variants"]
    assert len(variants) > 8
    assert {v["activations_per_token"]["median"] for v in variants.values()} == {16}
    assert variants["base"]["speedup"] == {"median": 1, "least": 1, "most": 1}


@pytest.mark.slow
def test_tables_and_timeline(pack, tmp_path):
    trace = tmp_path / "trace.json"
    printed = bench(pack, "--prefetch", "1", "--timeline", str(trace))
    for word in ("decode", "prefill", "hit rate", "of the bound"):
        assert word in printed
    lanes = {event.get("cat") for event in json.loads(trace.read_text())["traceEvents"]}
    # Whether anything stalls or is read ahead depends on time.
    assert {"compute", "demand"} <= lanes <= {*LANES, None}


@pytest.mark.slow
def test_a_profile_adds_up_and_knows_what_was_read(pack):
    report = json.loads(bench(pack, "--profile", "--json"))
    manifest = json.loads(_core.inspect_pack(pack))
    experts = 16 * manifest["experts"]["expert_bytes"]
    assert list(report["profile"]) == ["prefill", "decode"]
    for tokens, phase in zip((8, 4), report["profile"].values(), strict=True):
        assert phase["tokens"] == tokens
        assert set(phase["parts"]) == {*PARTS, PYTHON, OTHER}
        seconds = {name: part["seconds"] for name, part in phase["parts"].items()}
        assert sum(seconds.values()) == pytest.approx(phase["seconds_per_token"])
        # Spans do not overlap, so nothing is counted twice; all but waiting surely took time.
        assert all(s > 0 for name, s in seconds.items() if name != "waiting for reads")
        assert phase["disk_bytes_per_token"] > 0
    parts = report["profile"]["decode"]["parts"]
    read = sum(parts[name]["memory_bytes"] for name in ("gate and up", "down"))
    assert 0.9 * experts < read <= experts


def test_every_span_of_a_step_belongs_to_a_part_and_to_one_only(pack):
    with LLM(pack, experts_resident=0.5, timeline=True, warm_restart=False) as llm:
        with llm.new_sequence() as sequence:
            sequence.prefill([1, 2, 3])
            sequence.decode(4)
        spans = [span for span in llm.timeline() if span.lane in ("compute", "stall")]
    names = {span.name for span in spans}
    known = {name for part in PARTS.values() for name in part}
    assert names <= known
    # Whether a tile streams or a step waits depends on time.
    assert known - names <= {"stall", "gate_up", "down", "gate_up, streamed", "down, streamed"}
    in_order = sorted(spans, key=lambda span: span.begin_ns)
    assert all(one[5] <= two[4] for one, two in itertools.pairwise(in_order))  # never overlap


@pytest.mark.slow
def test_a_profile_prints_a_table(pack):
    printed = bench(pack, "--profile")
    for word in ("decode: where a token's time goes", *PARTS, PYTHON, OTHER, "is bound by"):
        assert word in printed


@pytest.mark.parametrize("wrong", [["--tokens", "0"], ["--policy", "best"], ["--verify", "maybe"]])
def test_wrong_settings_are_wrong_usage(pack, wrong):
    assert CliRunner().invoke(app, ["bench", pack, *wrong]).exit_code == 2


def test_run_writes_a_timeline_too(pack, tmp_path):
    trace = tmp_path / "trace.json"
    options = ["-p", "The", "-n", "4", "--experts-resident", "50%", "--timeline", str(trace)]
    result = CliRunner().invoke(app, ["run", pack, *options])
    assert result.exit_code == 0, result.output
    events = json.loads(trace.read_text())["traceEvents"]
    assert {"compute", "demand"} <= {event.get("cat") for event in events}
