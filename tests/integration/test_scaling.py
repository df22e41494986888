# SPDX-License-Identifier: Apache-2.0
"""`benchmarks.scaling` on the trained model: what it counts, not how fast it is."""

import json

import pytest

from adapmoe.pack.manifest import Manifest
from benchmarks.bounds import weight_bytes_per_token
from benchmarks.scaling import main
from benchmarks.widen import widen

QUICK = ["--tokens", "6", "--warmup", "2"]
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


@pytest.fixture
def scaling(capsys):
    def run(*words):
        main([*map(str, words), *QUICK, "--json"])
        return json.loads(capsys.readouterr().out)

    return run


def test_sequences_share_what_a_step_reads_under_a_limit(scaling, pack_factory):
    pack = pack_factory(tile_width=64)
    rows = scaling("batches", pack, "--sizes", "1,4", "--experts-resident", "0.5")
    assert [row["size"] for row in rows] == ["1", "4"]
    for row in rows:
        assert row["bytes_per_step"] == pytest.approx(int(row["size"]) * row["bytes_per_token"])
        assert row["bytes_per_step"] > 0
        assert 0 < row["hit_rate"] < 1
    alone, together = rows
    assert alone["experts_per_token"] == 16  # 8 layers, 2 experts
    assert together["experts_per_token"] < 16  # what several need is computed, and read, once
    manifest = Manifest.read(pack)
    assert alone["weight_bytes_per_step"] == weight_bytes_per_token(manifest)
    more = (4 * together["experts_per_token"] - 16) * manifest.experts.expert_bytes
    assert together["weight_bytes_per_step"] - alone["weight_bytes_per_step"] == pytest.approx(more)


def test_with_everything_resident_nothing_is_read(scaling, pack_factory):
    (row,) = scaling("batches", pack_factory(), "--sizes", "2")
    assert row["bytes_per_step"] == row["bytes_per_token"] == 0
    assert row["hit_rate"] == 1


def test_a_context_longer_than_the_model_was_trained_for(scaling, tiny_checkpoint, tmp_path):
    pack = tmp_path / "long.adapmoe"
    shape = SHAPE | {"num_hidden_layers": 2, "max_position_embeddings": 2200}
    widen(tiny_checkpoint, pack, shape, experts="int4", dense="int4")
    (row,) = scaling("contexts", pack, "--sizes", "2190")
    assert row["size"] == "2190"
    assert row["experts_per_token"] == 4
    with pytest.raises(ValueError, match="2200"):
        scaling("contexts", pack, "--sizes", "2200")


def test_the_table(pack_factory, capsys):
    main(["batches", str(pack_factory()), "--sizes", "2", *QUICK])
    printed = capsys.readouterr().out.splitlines()
    assert "MB/step" in printed[0]
    assert printed[1].split()[0] == "2"
