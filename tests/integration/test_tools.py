# SPDX-License-Identifier: Apache-2.0
"""The programs of runtime/tools on this machine."""

import subprocess

import numpy as np
import pytest

from adapmoe import LLM, _testing
from support.core.cpu_expert import CpuExpert
from support.source.tools import kernel_digests, run, run_expert, token_report, tool

IDS = [1, 45, 67, 300, 12, 99]


def test_kernel_check_covers_every_table_and_finds_them_equal():
    digests = kernel_digests()
    assert list(digests) == _testing.kernel_names()
    assert len(digests["scalar"]) == 10
    assert all(table == digests["scalar"] for table in digests.values())


def test_operator_check_says_why_a_backend_cannot_run():
    done = run(tool("operator-check"), "abacus")
    assert done.returncode == 1
    assert 'linear_int4: backend="abacus": expected auto, cpu or cuda' in done.stderr


def test_tokens_are_those_of_the_library(pack_factory):
    pack = pack_factory(experts="int4")
    report = token_report(pack, *IDS, "-n", 5)
    with LLM(pack, max_context=32) as llm, llm.new_sequence() as sequence:
        rows = list(sequence.prefill(np.array(IDS, np.int32), all_logits=True))
        ids = []
        for _ in range(5):
            ids.append(int(rows[-1].argmax()))
            rows.append(sequence.decode(ids[-1]))
    assert report["tokens"] == " ".join(map(str, ids))
    assert report["logits"] == f"{_testing.crc32c(np.stack(rows).reshape(-1).view(np.uint8)):08x}"


@pytest.mark.parametrize(
    "name", ["expert", "gpu-bench", "kernel-check", "operator-check", "tokens"]
)
def test_help(name):
    done = run(tool(name), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: adapmoe-{name} ")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("kernel-check", ["all"], "unexpected argument all"),
        (
            "expert",
            ["pack", "one", 2, "cpu", "w4a8"],
            "two numbers and two names are needed",
        ),
        ("gpu-bench", ["bandwidth", "device"], "wrong arguments"),
        ("gpu-bench", ["product", "f16", 1, 2, 32, 1, "w4a8", "staged", "device", 9], "wrong"),
        ("operator-check", ["--all"], "unexpected argument --all"),
        ("tokens", [], "a pack and at least one token id are needed"),
        ("tokens", ["p", "x"], '"x" is not a token id'),
        ("tokens", ["p", 1, "-n"], "-n needs a value"),
        ("tokens", ["p", 1, "-n", "-4"], '-n takes a number, not "-4"'),
        ("tokens", ["p", 1, "--threads", 4096], "--threads is at most 1024"),
        ("tokens", ["p", 1, "--exact", 1], "--exact takes yes or no"),
        ("tokens", ["p", 1, "--thread", 2], "unknown option --thread"),
    ],
)
def test_wrong_usage(name, arguments, message):
    done = run(tool(name), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "usage:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels", "abacus", 1], 'kernels="abacus" cannot run on this machine'),
        (["--experts", "w4a16", 1], 'arithmetic="w4a16" does not give the bits of the CPU'),
        (["--memory", 4096, 1], "is below the floor"),
        ([99999999], "outside the vocabulary"),
    ],
)
def test_a_model_that_cannot_run(pack_factory, arguments, message):
    done = run(tool("tokens"), pack_factory(), *arguments)
    assert done.returncode == 1
    assert message in done.stderr


def test_an_expert_is_that_of_the_library(pack_factory):
    pack = pack_factory(experts="int8", tile_width=64)
    x = np.random.default_rng(0).standard_normal((3, 256), np.float32)
    y = run_expert(pack, 2, 5, x, backend="cpu", path="w4a8", build="test")
    assert np.array_equal(y, CpuExpert(pack).evaluate(2, 5, x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([8, 0, "cpu", "w4a8"], "the model has 8 layers of 8 experts"),
        ([0, 0, "cpu", "w8"], 'arithmetic="w8": expected one of auto, w4a8, w4a16'),
        ([0, 0, "cpu", "w4a16"], 'arithmetic="w4a16" runs on a GPU only'),
        ([0, 0, "cpu", "w4a8"], "the input has 0 values, not rows of 256"),
    ],
)
def test_an_expert_that_cannot_run(pack_factory, arguments, message):
    name = [*tool("expert"), str(pack_factory()), *map(str, arguments)]
    values = "" if "values" in message else "x" * 1024
    done = subprocess.run(name, input=values, capture_output=True, text=True)
    assert done.returncode == 1
    assert message in done.stderr
