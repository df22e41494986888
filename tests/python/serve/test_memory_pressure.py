# SPDX-License-Identifier: Apache-2.0
"""A real server gives memory back while another process of its control group takes it."""

import json
import subprocess
import sys

import pytest

from support.source.source_tree import ROOT

MIB = 1 << 20
# 124 MB, of which 76 MiB can be given back.
SIZES = {
    "hidden-size": 512,
    "intermediate-size": 2048,
    "num-attention-heads": 16,
    "num-key-value-heads": 4,
    "head-dim": 32,
}


@pytest.fixture(scope="module")
def wider_pack(tmp_path_factory):
    path = tmp_path_factory.mktemp("wide") / "wide.adapmoe"
    sizes = [str(word) for name, value in SIZES.items() for word in (f"--{name}", value)]
    command = [sys.executable, "benchmarks/widen.py", "tests/models/tiny-mixtral", path, *sizes]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return path


@pytest.mark.root
@pytest.mark.slow
def test_memory_that_another_process_wants_is_given_back_and_taken_again(wider_pack):
    options = ["--limit", "800MiB", "--take", "530MiB", "--speed", "100MiB", "--seconds", "14"]
    command = [sys.executable, "-m", "benchmarks.memory_pressure", wider_pack, *options, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr  # nothing was killed, no answer differs
    report = json.loads(done.stdout)
    before, taken, left = report["phases"]
    assert before["given_back"] == 0
    assert taken["given_back"] > 40 * MIB
    assert taken["room"] > 0
    assert taken["rss_mb"][0] < before["rss_mb"][1] - 20
    assert left["room"] > 400 * MIB
    assert left["rss_mb"][1] > left["rss_mb"][0] + 5  # experts are coming back
    assert report["answers"] > 10
    assert done.stderr.count("memory is short") == 1
