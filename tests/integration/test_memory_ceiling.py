# SPDX-License-Identifier: Apache-2.0
"""`memory` is a ceiling: a process grows by at most that and 64 MiB, whatever the model is."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adapmoe import LLM
from adapmoe.errors import BudgetError
from support.models.checkpoints import make_config, make_tensors, write_checkpoint

PROBE = Path(__file__).resolve().parents[1] / "support" / "machine" / "memory_probe.py"
SLACK = 64 << 20


@pytest.fixture(scope="module")
def large_pack(tmp_path_factory):
    """Random weights, 168 MiB of experts: several times the slack, so that a leak would show."""
    from adapmoe_export import export_pack

    tmp = tmp_path_factory.mktemp("large")
    config = make_config(
        hidden_size=512,
        intermediate_size=1792,
        num_hidden_layers=4,
        num_local_experts=8,
        num_attention_heads=8,
        vocab_size=1000,
        max_position_embeddings=512,
    )
    checkpoint = write_checkpoint(tmp / "checkpoint", config, make_tensors(config))
    export_pack(checkpoint, tmp / "large.adapmoe", experts="f16", tile_width=256)
    return tmp / "large.adapmoe"


def probe(pack, memory):
    done = subprocess.run(
        [sys.executable, str(PROBE), str(pack), str(memory)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.memory
def test_growth_stays_below_the_ceiling(large_pack):
    free = probe(large_pack, 0)
    assert free["growth"] > free["experts"] * 0.9  # the measurement sees the experts
    for share in (0.25, 0.5, 0.75):
        memory = int(free["floor"] + share * free["experts"])
        limited = probe(large_pack, memory)
        print(f"memory {memory >> 20} MiB: grew by {limited['growth'] >> 20} MiB")
        assert limited["growth"] <= memory + SLACK
        assert limited["bytes_read"] > free["bytes_read"]  # it streamed


def test_below_the_floor_is_refused_with_the_bytes_needed(large_pack):
    with pytest.raises(BudgetError, match="below the floor") as refused:
        LLM(large_pack, memory="20MiB")
    needed = int(re.search(r"at least .*?\((\d+) bytes\)", str(refused.value)).group(1))
    with LLM(large_pack, memory=needed) as llm:
        assert llm.memory_split.floor_bytes == needed
    with pytest.raises(BudgetError):
        LLM(large_pack, memory=needed - 1)


def test_more_than_the_machine_has_is_refused(tmp_path):
    from adapmoe_export import export_pack

    config = make_config(max_position_embeddings=1 << 20)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config))
    export_pack(checkpoint, tmp_path / "long.adapmoe")
    # A ceiling above what the model needs reserves only what it needs.
    with LLM(tmp_path / "long.adapmoe", memory="900TiB", max_context=64):
        pass
    with pytest.raises(BudgetError, match="more than this process may take"):
        LLM(tmp_path / "long.adapmoe", memory="900TiB", max_context=1 << 20, max_sequences=4096)


def test_split_is_printed_at_open(large_pack, capsys):
    with LLM(large_pack, verbose=True):
        pass
    printed = capsys.readouterr().err
    for part in ("dense", "KV", "scratch", "experts"):
        assert part in printed
