# SPDX-License-Identifier: Apache-2.0
"""How the pairing with llama.cpp makes figures of runs, and how it holds a process to a limit."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from adapmoe.core_types import RoutingVisit
from adapmoe.pack.manifest import Manifest
from benchmarks.agreement import compare
from benchmarks.belady import belady_bytes, next_pass
from benchmarks.bounds import weight_bytes_per_token
from benchmarks.cgroup import (
    V1,
    CgroupUnavailable,
    cached_share,
    drop_from_page_cache,
    memory_cgroup,
)
from benchmarks.our_run import OurEngine
from benchmarks.pairing_summary import summarize, table_of
from benchmarks.rows import ROWS
from benchmarks.timed_run import decode, negative_log_likelihood
from support.packs.small_pack import TILE_BYTES, write_small_pack

BOUNDS = {"memory_bytes_per_s": 100.0, "disk_bytes_per_s": 10.0, "direct": True}


def run_of(speed, read):
    """One token of two reads everything."""
    return {
        "tokens_per_s": speed,
        "bytes_per_token": read,
        "bytes_of_tokens": [0.0, 2 * read],
        "nll": math.log(40.0),
        "open_s": 1.0,
    }


def test_ratios_are_paired_and_the_bound_is_the_slower_of_memory_and_disk():
    pairs = [
        {"bounds": BOUNDS, "ours": run_of(2.0, 1.0), "llama.cpp": run_of(1.0, 4.0)},
        {"bounds": BOUNDS, "ours": run_of(3.0, 3.0), "llama.cpp": run_of(2.0, 4.0)},
        {"bounds": BOUNDS, "ours": run_of(4.0, 1.0), "llama.cpp": run_of(1.0, 4.0)},
    ]
    summary = summarize(ROWS["decode-50"], pairs, weight_bytes=20)
    assert summary["ratios"]["llama.cpp"] == {"median": 2.0, "least": 1.5, "most": 4.0}
    ours = summary["sides"]["ours"]
    assert ours["tokens_per_s"]["median"] == 3.0
    # 20 bytes of memory take 0.2 s, one from the disk 0.1 s, three 0.3 s.
    assert ours["fraction_of_bound"] == pytest.approx({"median": 0.8, "least": 0.4, "most": 0.9})
    # By themselves: 0.2 s and 0.2 s, or 0.2 s and 0.6 s.
    assert ours["fraction_of_token_bound"] == pytest.approx(
        {"median": 0.8, "least": 0.4, "most": 1.2}
    )
    assert ours["perplexity"] == pytest.approx(40.0)
    console = Console(width=150)
    with console.capture() as printed:
        console.print(table_of({"rows": {"decode-50": {"summary": summary}}}))
    assert "2 (1.5 - 4)x" in printed.get()


def test_bytes_read_stand_beside_belady_s():
    best = [{"belady_bytes": 10, "tokens": 10}, {"belady_bytes": 20, "tokens": 10}]
    pairs = [
        {"bounds": BOUNDS, "ours": run_of(2.0, 3.0) | facts, "llama.cpp": run_of(1.0, 4.0)}
        for facts in best
    ]
    summary = summarize(ROWS["decode-50"], pairs, weight_bytes=20)
    ours = summary["sides"]["ours"]
    assert ours["belady_bytes_per_token"] == {"median": 1.5, "least": 1.0, "most": 2.0}
    assert ours["read_over_belady"] == {"median": 2.25, "least": 1.5, "most": 3.0}
    assert not any("belady" in figure for figure in summary["sides"]["llama.cpp"])


def test_the_first_token_s_bytes_are_compared_as_a_whole():
    ours = {"first_token_s": 1.0, "open_s": 0.5, "bytes_to_first_token": 60}
    pair = {"bounds": BOUNDS, "ours": ours | {"belady_bytes": 40, "tokens": 16}, "llama.cpp": ours}
    found = summarize(ROWS["first-token-50"], [pair], weight_bytes=20)["sides"]["ours"]
    assert found["belady_bytes_to_first_token"]["median"] == 40
    assert found["read_over_belady"]["median"] == 1.5


def test_belady_works_tile_by_tile(tmp_path):
    write_small_pack(tmp_path / "small.adapmoe", layers=1, experts=4, tiles=2)
    manifest = Manifest.read(tmp_path / "small.adapmoe")
    visits = [RoutingVisit(number, 0, [number % 2]) for number in range(4)]
    # Three of four tiles stay: one expert, and half of the other.
    assert belady_bytes(visits, manifest, frames=3, count_from=0) == 5 * TILE_BYTES
    assert belady_bytes(visits, manifest, frames=3, count_from=2) == TILE_BYTES
    assert belady_bytes(visits, manifest, frames=4, count_from=2) == 0
    assert next_pass(visits) == 4
    assert next_pass([]) == 0


def test_a_limited_run_reads_no_less_than_belady(pack_factory):
    def run(fraction):
        job = {"task": "decode", "threads": 1, "context": 64, "pack": str(pack)}
        engine = OurEngine(job | {"settings": {"experts_resident": fraction}})
        decode(engine, {"ids": list(range(1, 40)), "prompt": 8, "warm_up": 4})
        read = engine._llm.stats.bytes_read - engine._before.bytes_read  # also where in memory
        return engine.facts() | {"read": read}

    pack = pack_factory(tile_width=64)
    limited = run(0.5)
    assert limited["tokens"] == 26
    assert 0 < limited["belady_bytes"] <= limited["read"]
    assert "belady_bytes" not in run(1.0)


def test_agreement_counts_whole_decisions():
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    routing = np.array([[[0, 1], [2, 3]], [[0, 1], [2, 3]]])
    other = routing.copy()
    other[1, 1] = [2, 4]
    found = compare((logits, routing), (logits[:, ::-1], other))
    assert found["same_experts"] == 0.75
    assert found["same_top_token"] == 0.0
    assert found["rms_logit_difference"] == 1.0


def test_weights_of_a_token_leave_out_the_table_of_embeddings(pack_factory):
    pack = pack_factory(experts="int4", dense="int4")
    manifest = Manifest.read(pack)
    tensors = manifest.dense.tensors
    layer = sum(t.bytes for name, t in tensors.items() if name.startswith("model.layers.0."))
    rest = sum(tensors[name].bytes for name in ("lm_head.weight", "model.norm.weight"))
    rest += tensors["rope.inv_freq"].bytes
    experts = 2 * manifest.experts.expert_bytes
    assert weight_bytes_per_token(manifest) == 8 * (layer + experts) + rest


def test_a_run_predicts_each_measured_token_from_those_before():
    class Foreseeing:
        """Is sure of the token one above the last."""

        fed = ()

        def prefill(self, ids):
            self.fed = (*self.fed, *ids)

        def decode(self, token_id):
            self.fed = (*self.fed, token_id)
            return np.eye(16, dtype=np.float32)[token_id + 1] * 50

        def begin(self):
            self.begun = len(self.fed)

    engine = Foreseeing()
    report = decode(engine, {"ids": list(range(10)), "prompt": 4, "warm_up": 2})
    assert engine.fed == tuple(range(9))
    assert engine.begun == 6
    assert report["nll"] == pytest.approx(0.0, abs=1e-9)
    assert negative_log_likelihood([np.zeros(8)], [3]) == pytest.approx(math.log(8))


@pytest.fixture
def on_disk(tmp_path):
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True)
    if kind.stdout.strip() in ("tmpfs", "ramfs"):
        pytest.skip(f"{tmp_path} is in memory: give --basetemp a folder on a disk")
    return tmp_path


def test_pages_leave_the_page_cache(on_disk):
    path = on_disk / "file"
    path.write_bytes(bytes(1 << 22))
    path.read_bytes()
    drop_from_page_cache([path])
    assert cached_share(path) <= 0.01


@pytest.mark.root
@pytest.mark.memory
def test_a_cgroup_counts_the_page_cache_and_is_removed(on_disk):
    if os.geteuid() != 0 or not (V1 / "memory.limit_in_bytes").exists():
        pytest.skip("needs root and the memory controller of cgroup v1")
    path, limit = on_disk / "file", 48 << 20
    path.write_bytes(bytes(96 << 20))
    drop_from_page_cache([path])
    code = (
        "import sys; file = open(sys.argv[1], 'rb')\n"
        "for _ in iter(lambda: file.read(1 << 20), b''): pass"
    )
    with memory_cgroup(limit) as group:
        subprocess.run(group.command([sys.executable, "-c", code, str(path)]), check=True)
        assert limit // 2 < group.largest_usage() <= limit
    assert not group.folder.exists()


def test_without_root_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CgroupUnavailable, match="need root"), memory_cgroup(1 << 30):
        pass
