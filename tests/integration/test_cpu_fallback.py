# SPDX-License-Identifier: Apache-2.0
"""An engine that cannot be had costs time and a note: its expert is computed from the pack."""

import numpy as np
import pytest

from support.source.tools import run, token_report, tool
from support.tensorrt.stand_in_engines import ENGINES, copy_pack, flip_bit, library, write_engines

pytestmark = pytest.mark.emulated

IDS = [1, 45, 67, 300, 12, 99, 4, 2024, 8, 15, 16, 23, 42]
REFUSE = {"ADAPMOE_EMULATED_TENSORRT_REFUSES": "enqueue"}


@pytest.fixture
def engine_pack(pack_factory, tmp_path):
    tool("tokens", build="emulated")
    pack = copy_pack(pack_factory(tile_width=64), tmp_path)
    write_engines(pack)
    return pack


def report(pack, *options, env=(), engines=True):
    chosen = ENGINES if engines else ("--backend", "cpu", "--threads", 1)
    environment = library(10) | dict(env)
    return token_report(pack, *IDS, "-n", 4, *chosen, *options, build="emulated", env=environment)


def on_cpu(found):
    return [int(count) for count in found["on_cpu"].split()]


def plan(pack, layer, expert):
    return pack / "engines/tensorrt-sm_00" / f"layer{layer}-expert{expert}.plan"


def test_a_damaged_plan_is_never_deserialised(engine_pack, tmp_path):
    whole = report(engine_pack, "--logits", tmp_path / "whole")
    assert sum(on_cpu(whole)) == 0
    for expert in range(8):
        flip_bit(plan(engine_pack, 3, expert), 5000)
    found = report(engine_pack, "--logits", tmp_path / "damaged")
    assert sum(on_cpu(found)) > 0
    assert "computed by the CPU: " in found["note"]
    assert "layer3-expert" in found["note"]
    assert ".plan: SHA-256 is" in found["note"]
    assert "it is damaged and not used; rebuild: adapmoe build-engines" in found["note"]
    a, b = (np.fromfile(tmp_path / name, np.float32) for name in ("whole", "damaged"))
    assert 0 < np.linalg.norm(a - b) / np.linalg.norm(a) < 0.05  # W4A8 instead of W4A16


@pytest.mark.parametrize("gpu", ["integrated", "discrete"])
@pytest.mark.parametrize("memory", [(), ("--memory", 64 << 20)])
def test_without_any_engine_the_bits_are_the_cpus(engine_pack, gpu, memory):
    cpu = report(engine_pack, engines=False)
    found = report(engine_pack, *memory, env=REFUSE | {"ADAPMOE_EMULATED_GPU": gpu})
    assert (found["tokens"], found["logits"]) == (cpu["tokens"], cpu["logits"])
    assert "TensorRT: told to refuse" in found["note"].replace('tensorrt"', "TensorRT")


def test_a_damaged_plan_of_a_damaged_expert_is_an_error(engine_pack):
    """Nothing is left to compute that expert with; others were not asked."""
    weights = engine_pack / "experts.safetensors"
    content = bytearray(weights.read_bytes())
    weights.unlink()  # a link to the shared pack
    content[len(content) // 16 :] = bytes(len(content) - len(content) // 16)
    weights.write_bytes(content)
    done = run(
        tool("tokens", build="emulated"), engine_pack, *IDS, *ENGINES, env=library(10) | REFUSE
    )
    assert done.returncode == 1
    assert "the file is damaged, copy or export the pack again" in done.stderr
