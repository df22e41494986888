# SPDX-License-Identifier: Apache-2.0
"""The typed manifest says what the file says, after the core has checked it."""

import hashlib
import json

import pytest
from typer.testing import CliRunner

from adapmoe.calibration.sensitivity import check_checkpoint
from adapmoe.cli.main import app
from adapmoe.errors import CheckpointError, PackError
from adapmoe.pack.manifest import (
    DenseMatrix,
    DenseVector,
    Manifest,
    check_small_files,
    manifest_sha256,
)
from support.packs.manifest_edit import edit_manifest
from support.packs.small_pack import TILE_BYTES, write_small_pack


@pytest.fixture
def pack(tmp_path):
    write_small_pack(tmp_path / "small.adapmoe", layers=2, experts=3, tiles=2)
    return tmp_path / "small.adapmoe"


def content(pack):
    return json.loads((pack / "manifest.json").read_text())


def test_it_says_what_the_file_says(pack_factory):
    pack = pack_factory(experts="int4", dense="int8")
    manifest = Manifest.read(pack)
    assert manifest.as_json() == content(pack)
    assert manifest.sha256 == hashlib.sha256((pack / "manifest.json").read_bytes()).hexdigest()
    assert manifest.sha256 == manifest_sha256(pack)
    tensors = manifest.dense.tensors
    assert isinstance(tensors["lm_head.weight"], DenseMatrix)
    assert isinstance(tensors["model.norm.weight"], DenseVector)
    assert manifest.weight_errors.keys() >= {"gate_proj", "q_proj"}
    printed = json.loads(CliRunner().invoke(app, ["inspect", str(pack), "--json"]).stdout)
    assert content(pack).items() <= printed.items()


def test_where_an_expert_and_its_tiles_lie(pack):
    manifest = Manifest.read(pack)
    experts = manifest.experts
    assert manifest.expert_ids == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    index = manifest.expert_index(1, 1)
    assert manifest.expert_ids[index] == (1, 1)
    assert experts.offset(index, 1) == experts.data_offset + 9 * TILE_BYTES
    assert experts.tile_crc32c(index, 1) == content(pack)["experts"]["crc32c"][4][8:]
    tiles = experts.all_tiles(pack)
    assert (tiles.count, tiles.tile_bytes) == (12, TILE_BYTES)
    assert tiles.file.stat().st_size == tiles.offset + tiles.count * tiles.tile_bytes


FREE_FORMS = [
    None,
    7,
    [],
    "text",
    {"gate_proj": 1.0, "relative_rmse": 1.0},
    {"gate_proj": {"relative_rmse": "0.1"}, "source_config_sha256": 5},
]


@pytest.mark.parametrize("value", FREE_FORMS, ids=str)
def test_free_form_fields_of_any_shape_are_read_as_unknown(pack, tmp_path, value):
    edit_manifest(pack, lambda m: m.update(quantization_error=value, provenance=value))
    manifest = Manifest.read(pack)
    assert manifest.weight_errors == {}
    assert manifest.source_config_sha256 is None
    assert manifest.as_json() == content(pack)
    assert CliRunner().invoke(app, ["inspect", str(pack)]).exit_code == 0
    (tmp_path / "config.json").write_text("{}")
    check_checkpoint(pack, tmp_path)  # nothing to compare with


def test_the_checkpoint_is_compared_where_the_manifest_names_it(pack, tmp_path):
    edit_manifest(pack, lambda m: m.update(provenance={"source_config_sha256": "0" * 64}))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"0{64}; give the checkpoint of this pack"):
        check_checkpoint(pack, tmp_path)


def test_free_form_fields_may_be_missing_and_others_not(pack):
    manifest = Manifest.read(pack)
    assert "provenance" not in manifest.as_json()
    assert manifest.weight_errors == {}
    edit_manifest(pack, lambda m: m["config"].pop("rope_theta"))
    with pytest.raises(PackError, match="rope_theta"):
        Manifest.read(pack)


def test_a_number_that_python_cannot_hold_is_told(pack):
    edit_manifest(pack, lambda m: m.update(provenance=10**400))
    with pytest.raises(PackError, match=r"manifest\.json: "):
        Manifest.read(pack)


def test_small_files_are_those_that_are_listed(pack):
    check_small_files(pack, Manifest.read(pack))
    (pack / "tokenizer.json").write_text("{}")
    with pytest.raises(PackError, match=r"tokenizer\.json: not listed"):
        check_small_files(pack, Manifest.read(pack))
    listed = {"bytes": 2, "sha256": hashlib.sha256(b"[]").hexdigest()}
    edit_manifest(pack, lambda m: m["files"].update({"tokenizer.json": listed}))
    with pytest.raises(PackError, match=r"tokenizer\.json: SHA-256 is .* changed or damaged"):
        check_small_files(pack, Manifest.read(pack))
