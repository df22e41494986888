# SPDX-License-Identifier: Apache-2.0
"""`adapmoe verify` finds every kind of damage and names it."""

import hashlib
import json
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from adapmoe import _core
from adapmoe.cli.main import app
from adapmoe.errors import PackError
from adapmoe.pack.verify import verify_pack
from adapmoe_export import export_pack
from adapmoe_export.numerics import compare_weights
from support.models.checkpoints import make_config, make_tensors, write_checkpoint
from support.packs.manifest_edit import edit_manifest, signed_text
from support.packs.pack_reader import read_manifest

W3 = "model.layers.1.block_sparse_moe.experts.2.w3.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    config = make_config()
    checkpoint = write_checkpoint(folder / "checkpoint", config, make_tensors(config))
    export_pack(checkpoint, folder / "pack.adapmoe", tile_width=32)
    return folder


@pytest.fixture
def pack(original, tmp_path):
    return shutil.copytree(original / "pack.adapmoe", tmp_path / "pack.adapmoe")


@pytest.fixture
def checkpoint(original, tmp_path):
    return shutil.copytree(original / "checkpoint", tmp_path / "checkpoint")


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def sign_files(pack):
    """Make the manifest's checksums those of the files, as a faulty exporter would."""
    manifest = read_manifest(pack)
    experts = manifest["experts"]
    for name, file in manifest["files"].items():
        file["sha256"] = hashlib.sha256((pack / name).read_bytes()).hexdigest()
    data = np.fromfile(pack / "experts.safetensors", np.uint8)[experts["data_offset"] :]
    tiles = data.reshape(len(experts["crc32c"]), experts["tiles"], -1)
    experts["crc32c"] = ["".join(f"{_core.crc32c(tile):08x}" for tile in e) for e in tiles]
    (pack / "manifest.json").write_bytes(signed_text(manifest))


def test_intact_pack_passes(pack):
    calls = []
    manifest = verify_pack(pack, lambda done, total: calls.append((done, total)))
    assert manifest.as_json() == read_manifest(pack)
    total = sum(file.bytes for file in manifest.files.values())
    assert calls == sorted(calls)
    assert calls[-1] == (total, total)


@pytest.mark.parametrize("tile", [0, 1, 2])
@pytest.mark.parametrize("index", [0, 6, 7])
def test_damaged_tile_is_named_with_its_offset(pack, index, tile):
    experts = read_manifest(pack)["experts"]
    offset = experts["data_offset"] + index * experts["expert_bytes"] + tile * experts["tile_bytes"]
    flip(pack / "experts.safetensors", offset + experts["tile_bytes"] - 1)
    layer, expert = divmod(index, 4)
    with pytest.raises(
        PackError,
        match=rf"experts.safetensors: tile {tile} of expert {expert} in layer {layer}, "
        rf"{experts['tile_bytes']} bytes at offset {offset}: CRC-32C is .* copy or export",
    ):
        verify_pack(pack)


@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight", "rope.inv_freq"])
def test_damaged_dense_tensor_is_named_with_its_offset(pack, name):
    dense = read_manifest(pack)["dense"]
    place = dense["tensors"][name]
    offset = dense["data_offset"] + place["offset"]
    flip(pack / "dense.safetensors", offset + place["bytes"] - 1)
    with pytest.raises(
        PackError,
        match=rf"dense.safetensors: tensor {name}, {place['bytes']} bytes at offset {offset}: CRC",
    ):
        verify_pack(pack)


def test_damaged_small_file_is_named(pack_factory, tmp_path):
    pack = shutil.copytree(pack_factory(), tmp_path / "tiny.adapmoe")
    flip(pack / "tokenizer.json", 1000)
    with pytest.raises(PackError, match=r"tokenizer.json: SHA-256 is [0-9a-f]{64}, the manifest"):
        verify_pack(pack)


def test_changed_checksum_is_named(pack):
    def change(manifest):
        manifest["files"]["experts.safetensors"]["sha256"] = 64 * "0"

    edit_manifest(pack, change)
    with pytest.raises(PackError, match=r"experts\.safetensors: SHA-256 is"):
        verify_pack(pack)


@pytest.mark.parametrize("file", ["dense.safetensors", "experts.safetensors"])
def test_missing_and_short_files_are_named(pack, file):
    path = pack / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PackError, match=file):
        verify_pack(pack)
    path.unlink()
    with pytest.raises(PackError, match=file):
        verify_pack(pack)


def test_not_a_pack(tmp_path):
    with pytest.raises(PackError, match="nothing"):
        verify_pack(tmp_path / "nothing")


@pytest.mark.parametrize("dtype", ["int4", "int8", "f16", "f32"])
@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
def test_weights_are_as_far_off_as_recorded(tmp_path, dtype, source):
    config = make_config()
    tensors = make_tensors(config, dtype=source)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, tensors)
    pack = tmp_path / "out.adapmoe"
    export_pack(checkpoint, pack, experts=dtype, dense=dtype, tile_width=32)
    calls = []
    report = compare_weights(pack, checkpoint, lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1]
    recorded = read_manifest(pack)["quantization_error"]
    assert set(report) == {*recorded, "exact"}
    for kind, row in report.items():
        wanted = 0 if kind == "exact" else recorded[kind]["relative_rmse"]
        assert row["relative_rmse"] == pytest.approx(wanted, rel=1e-4)
        assert row["worst_rmse"] >= row["relative_rmse"]


def test_other_weights_are_named(pack, checkpoint):
    tensors = load_file(checkpoint / "model.safetensors")
    other = np.random.default_rng(5).standard_normal(tensors[W3].shape) * 0.05
    save_file(tensors | {W3: other.astype(ml_dtypes.bfloat16)}, checkpoint / "model.safetensors")
    with pytest.raises(PackError, match=rf"up_proj: the weights differ .* worst is {W3} with 1\.4"):
        compare_weights(pack, checkpoint)


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.layers.0.block_sparse_moe.gate.weight"]
)
def test_exact_tensors_must_be_equal(pack, checkpoint, name):
    tensors = load_file(checkpoint / "model.safetensors")
    changed = tensors[name].copy()
    changed[-1] = changed[-1] * ml_dtypes.bfloat16(1.02)
    save_file(tensors | {name: changed}, checkpoint / "model.safetensors")
    with pytest.raises(PackError, match=f"exact: the weights differ .* worst is {name}"):
        compare_weights(pack, checkpoint)


def test_scale_that_is_not_a_number_is_found(pack, checkpoint):
    experts = read_manifest(pack)["experts"]
    path = pack / "experts.safetensors"
    data = bytearray(path.read_bytes())
    data[experts["data_offset"] : experts["data_offset"] + 2] = b"\xff\x7f"
    path.write_bytes(data)
    sign_files(pack)
    verify_pack(pack)
    with pytest.raises(PackError, match=r"gate_proj: .* relative RMSE of nan"):
        compare_weights(pack, checkpoint)


def test_another_model_is_refused(pack, tmp_path):
    for name, changes in (("wide", {"intermediate_size": 64}), ("thin", {"intermediate_size": 16})):
        config = make_config(**changes)
        other = write_checkpoint(tmp_path / name, config, make_tensors(config))
        with pytest.raises(PackError, match="holds another model"):
            compare_weights(pack, other)


def run(*arguments):
    result = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_command_line(pack, checkpoint):
    code, stdout, _ = run(pack, "--checkpoint", checkpoint)
    assert code == 0
    for text in ("is intact", "dense.safetensors", "CRC-32C of 24 tiles matches", "up_proj"):
        assert text in stdout
    code, stdout, _ = run(pack, "--json")
    report = json.loads(stdout)
    assert code == 0
    assert report["ok"] is True
    assert report["files"] == read_manifest(pack)["files"]
    flip(pack / "experts.safetensors", -1)
    code, stdout, stderr = run(pack, "--json")
    assert code == 1
    assert json.loads(stdout)["ok"] is False
    assert "tile 2 of expert 3 in layer 1" in json.loads(stdout)["error"]
    assert "tile 2 of expert 3 in layer 1" in stderr


def test_checksums_need_no_exporter(pack):
    program = (
        "import sys\n"
        "sys.modules['adapmoe_export'] = sys.modules['safetensors'] = None\n"
        "sys.argv = ['adapmoe', 'verify', *sys.argv[1:]]\n"
        "from adapmoe.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, str(pack)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [*command, "--checkpoint", "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'adapmoe[export]'" in done.stderr
