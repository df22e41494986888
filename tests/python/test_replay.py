# SPDX-License-Identifier: Apache-2.0
"""Budgets, allocations and recommendations; the policies themselves are tested in native/."""

import json

import pytest
from typer.testing import CliRunner

from adapmoe.cli.main import app
from adapmoe.core_types import RoutingVisit
from adapmoe.errors import BudgetError
from adapmoe.pack.manifest import PackGeometry
from adapmoe.tracing.replay import (
    LayerFacts,
    ReplayRow,
    layer_floors,
    parse_budget,
    recommend,
    replay,
)
from adapmoe.tracing.trace import Trace

GEOMETRY = PackGeometry("ab" * 32, 4, 4, 2, 1 << 20, 10 << 20)
# Two tokens that take turns: everything one token needs, LRU has just evicted.
VISITS = [RoutingVisit(t, layer, [t % 2, 2 + t % 2]) for t in range(40) for layer in range(4)]
TRACE = Trace(GEOMETRY, VISITS)
FACTS = LayerFacts([0.5, 0.9, 0.9, 0.9], [0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("text", "experts"),
    [
        ("25%", 4),
        ("100%", 16),
        ("1%", 1),
        ("5-experts", 5),
        ("1 expert", 1),
        ("16 experts", 16),
        ("12MiB", 2),
        ("13.5MiB", 3),
        ("1GiB", 16),
    ],
)
def test_budgets(text, experts):
    assert parse_budget(text, GEOMETRY) == experts


@pytest.mark.parametrize("text", ["0%", "101%", "0-experts", "17-experts", "auto", "much", "-1"])
def test_wrong_budgets(text):
    with pytest.raises(ValueError, match=r"."):
        parse_budget(text, GEOMETRY)


def test_a_budget_below_the_floor_names_the_bytes():
    with pytest.raises(BudgetError, match=r"12\.00 MiB"):
        parse_budget("11MiB", GEOMETRY)


def test_floors():
    assert layer_floors("global", GEOMETRY, 8, None) == []
    assert layer_floors("uniform", GEOMETRY, 9, None) == [3, 2, 2, 2]
    dynamic = layer_floors("dp", GEOMETRY, 8, FACTS)
    assert sum(dynamic) == 8
    assert dynamic[0] == max(dynamic)
    with pytest.raises(ValueError, match="calibration"):
        layer_floors("dp", GEOMETRY, 8, None)
    with pytest.raises(ValueError, match="global, uniform, dp"):
        layer_floors("fair", GEOMETRY, 8, None)


def test_rows_have_every_combination_and_belady_bounds_them():
    rows = replay(TRACE, ["25%", "50%"], allocations=("global", "uniform", "dp"), facts=FACTS)
    assert len(rows) == 2 * 5 * 3
    for row in rows:
        assert row.visits == 320
        assert row.hits <= row.belady_hits
        assert row.hit_rate <= row.belady_hit_rate
    lru = next(row for row in rows if (row.budget, row.policy) == ("50%", "lru"))
    assert lru.hits == 0  # a cycle is 8 experts, and the tokens share none


def row(policy, hits):
    return ReplayRow("50%", 8, policy, "global", 1000, hits, 900)


def test_the_first_of_those_near_the_best_is_recommended():
    assert recommend([row("a", 798), row("b", 800)]) == ("a", "global")
    assert recommend([row("a", 700), row("b", 800)]) == ("b", "global")


def test_the_verb_prints_rows_and_marks_the_recommendation(tmp_path):
    path = tmp_path / "t.npz"
    TRACE.save(path)
    done = CliRunner().invoke(app, ["replay", str(path), "--budget", "50%", "--json"])
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["passes"] == 40
    assert {(r["policy"], r["allocation"]) for r in report["rows"]} >= {
        ("lru", "uniform"),
        ("farthest-layer", "global"),
    }
    assert report["recommended"]["policy"] in {r["policy"] for r in report["rows"]}
    table = CliRunner().invoke(app, ["replay", str(path)])
    assert "least-stale" in table.stdout
    assert "*" in table.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--budget", "much"), 2, "not a size"),
        (("--budget", "11MiB"), 1, "below the floor"),
        (("--policy", "magic"), 2, "magic"),
        (("--allocation", "dp"), 2, "calibration"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, words, code, message):
    TRACE.save(tmp_path / "t.npz")
    done = CliRunner().invoke(app, ["replay", str(tmp_path / "t.npz"), *words])
    assert done.exit_code == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_is_no_trace(tmp_path):
    (tmp_path / "t.npz").write_text("hello")
    done = CliRunner().invoke(app, ["replay", str(tmp_path / "t.npz")])
    assert done.exit_code == 1
    assert "not a trace" in done.stderr
