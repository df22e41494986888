# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: separate processes, real packs, real signals."""

import json
import signal
import subprocess
import sys
import time

import pytest

from adapmoe import LLM

COMMAND = [sys.executable, "-c", "from adapmoe.cli.main import main; main()"]


def adapmoe(*args, check=True):
    done = subprocess.run([*COMMAND, *map(str, args)], capture_output=True, text=True)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def test_from_checkpoint_to_text(tiny_checkpoint, tmp_path):
    pack = tmp_path / "tiny.adapmoe"
    adapmoe("export", tiny_checkpoint, pack, "--experts", "int4")
    shown = json.loads(adapmoe("inspect", pack, "--json").stdout)
    assert shown["config"]["num_local_experts"] == 8

    run = ["run", pack, "-p", "The function returns", "-n", "24", "--temperature", "0"]
    streamed = adapmoe(*run, "--experts-resident", "50%")
    report = json.loads(adapmoe(*run, "--experts-resident", "50%", "--json").stdout)
    assert streamed.stdout.strip() == report["text"].strip()
    assert "32 of 64 tiles" in streamed.stderr
    assert "statistics" in streamed.stderr
    stats = report["stats"]
    assert report["generated_tokens"] == len(report["token_ids"]) == 24
    assert report["prompt_tokens"] == 4
    assert 0 < stats["hit_rate"] < 1
    assert stats["bytes_read"] > 0
    assert stats["decode_tokens_per_s"] > 0
    assert stats["prefill_tokens_per_s"] > 0
    assert stats["peak_rss_bytes"] > 0
    assert stats["stall_s"] >= 0
    with LLM(pack) as llm:  # the library says the same
        from adapmoe import SamplingParams

        result = llm.generate("The function returns", SamplingParams(max_tokens=24))
    assert result.token_ids == report["token_ids"]


def test_eval_prints_one_object(pack_factory, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("Returns a list of the values in the dictionary.\n" * 40)
    done = adapmoe("eval", pack_factory(), "--text", text, "--json")
    shown = json.loads(done.stdout)
    assert set(shown) >= {"perplexity", "nll", "tokens"}
    assert 1 < shown["perplexity"] < 1000


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["run", "{tmp}/nothing.adapmoe", "-p", "x"], 1, "adapmoe export CHECKPOINT OUT"),
        (["run", "{pack}", "-p", "x", "--memory", "1MiB"], 1, "below the floor"),
        (["run", "{pack}", "-p", "x", "--memory", "lots"], 2, "not a size"),
        (["run", "{pack}"], 2, "prompt"),
        (["run", "{pack}", "-p", "x", "--kernels", "avx9"], 2, "scalar"),
        (["run", "{pack}", "-p", "x", "-n", "99999"], 1, "--max-context"),
        (["eval", "{pack}", "--text", "{tmp}/none.txt"], 2, "none.txt"),
        (["inspect", "{tmp}"], 1, "manifest.json"),
        (["export", "{tmp}", "{tmp}/out.adapmoe"], 1, "config.json"),
    ],
)
def test_errors_are_one_line_without_traceback(args, code, message, pack_factory, tmp_path):
    pack = pack_factory()
    done = adapmoe(*[a.format(tmp=tmp_path, pack=pack) for a in args], check=False)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_ctrl_c_stops_a_long_prefill_promptly(pack_factory):
    # Scalar kernels need many seconds for this prompt; the signal comes in the middle of a step.
    slow = ["--kernels", "scalar", "--threads", "1"]
    process = subprocess.Popen(
        [*COMMAND, "run", str(pack_factory()), "-p", "word " * 600, "-n", "100", *slow],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:  # the session is open once the split is printed
        if "one token" in line:
            break
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - begin < 5
