# SPDX-License-Identifier: Apache-2.0
"""`adapmoe report`: which figures there are, and what is said where there is none."""

import sys

import pytest
from typer.testing import CliRunner

from adapmoe import LLM, SamplingParams
from adapmoe.cli.main import app


@pytest.fixture
def trace(pack_factory, tmp_path):
    path = tmp_path / "story.npz"
    with LLM(pack_factory(), max_context=128) as llm, llm.recording(path):
        llm.generate("The function returns", SamplingParams(max_tokens=24, ignore_eos=True))
    return path


def report(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and path.stat().st_size > 5000


def test_a_trace_is_drawn_and_the_rest_is_named(pack_factory, trace, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figures"
    done = report(pack_factory(), "--trace", trace, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert is_png(out / "story.hit_rate.png")
    assert is_png(out / "story.experts.png")
    page = (out / "index.html").read_text()
    assert 'src="story.hit_rate.png"' in page
    assert "no calibration.json" in page
    assert "needs calibration" in done.stdout


def test_a_trace_of_another_pack_is_refused(pack_factory, trace, tmp_path):
    pytest.importorskip("matplotlib")
    done = report(pack_factory(experts="int8"), "--trace", trace, "--out", tmp_path / "figures")
    assert done.exit_code == 1
    assert "another pack" in done.stderr


def test_without_matplotlib_one_line_says_what_to_install(pack_factory, tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.axes", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [n for n in sys.modules if n.startswith("adapmoe.report")]:
        monkeypatch.delitem(sys.modules, name)
    done = report(pack_factory(), "--out", tmp_path)
    assert done.exit_code == 2
    assert "adapmoe[report]" in done.stderr
    assert len(done.stderr.splitlines()) == 1
