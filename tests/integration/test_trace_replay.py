# SPDX-License-Identifier: Apache-2.0
"""A replayed trace has the hits that the runtime had, because the policy code is the same."""

import json

import pytest
from typer.testing import CliRunner

from adapmoe import LLM, SamplingParams
from adapmoe.cli.main import app
from adapmoe.tracing.replay import POLICIES, run_policy
from adapmoe.tracing.trace import Trace

PROMPT = "The function returns"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fraction", [0.125, 0.5, 0.8])
def test_replay_has_the_hits_of_the_session(pack_factory, tmp_path, policy, fraction):
    path = tmp_path / "t.npz"
    with LLM(
        pack_factory(), experts_resident=fraction, policy=policy, prefetch=0, max_context=256
    ) as llm:
        with llm.recording(path):
            llm.generate(PROMPT, SamplingParams(max_tokens=60, ignore_eos=True))
        stats, frames = llm.stats, llm.memory_split.frames
    trace = Trace.load(path)
    assert trace.passes == 60
    assert run_policy(trace, frames, policy) == (stats.experts_used, stats.expert_hits)


def test_run_and_eval_record_what_replay_reads(pack_factory, tmp_path):
    pack, text = str(pack_factory()), tmp_path / "text.txt"
    text.write_text("A function that returns the number of items in the list. " * 4)
    verbs = {
        "run": ("-p", PROMPT, "-n", "8", "--ignore-eos"),
        "eval": ("--text", str(text), "--prefill-chunk", "1"),
    }
    for verb, words in verbs.items():
        path = str(tmp_path / f"{verb}.npz")
        done = CliRunner().invoke(app, [verb, pack, *words, "--trace", path])
        assert done.exit_code == 0, done.stderr
        replayed = CliRunner().invoke(app, ["replay", path, "--budget", "50%", "--json"])
        assert json.loads(replayed.stdout)["passes"] > 4
    evaluated = Trace.load(tmp_path / "eval.npz")
    assert evaluated.decode_only().visits == evaluated.visits


def test_chunks_do_not_change_perplexity(pack_factory, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("A function that returns the number of items in the list. " * 4)
    found = [
        CliRunner().invoke(
            app,
            ["eval", str(pack_factory()), "--text", str(text), "--prefill-chunk", chunk, "--json"],
        )
        for chunk in ("1", "128")
    ]
    assert found[0].stdout == found[1].stdout != ""
