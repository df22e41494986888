# SPDX-License-Identifier: Apache-2.0
import json
import sys

import pytest
import typer
from typer.testing import CliRunner

from adapmoe.cli.inspect import inspect
from adapmoe_export import ExportError
from adapmoe_export.cli import export
from support.packs.pack_reader import read_manifest
from support.source.imports import import_here

APP = typer.Typer()
APP.command("export")(export)
APP.command("inspect")(inspect)


def invoke(*arguments):
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_export_prints_sizes_and_errors(tiny_checkpoint, tmp_path):
    output = invoke("export", tiny_checkpoint, tmp_path / "out.adapmoe")
    size = read_manifest(tmp_path / "out.adapmoe")["files"]["experts.safetensors"]["bytes"]
    assert f"{size:,}" in output
    for kind in ("gate_proj", "up_proj", "down_proj", "q_proj", "embed_tokens", "lm_head"):
        assert kind in output


def test_export_json_and_inspect(tiny_checkpoint, tmp_path):
    out = tmp_path / "out.adapmoe"
    options = ["--experts", "int8", "--dense", "f16", "--group-size", 64, "--tile-width", 128]
    summary = json.loads(invoke("export", tiny_checkpoint, out, *options, "--threads", 1, "--json"))
    assert summary["pack"] == str(out)
    assert summary["experts"]["tiles"] == 2
    assert summary["quantization"]["experts"] == {"dtype": "int8", "group_size": 64}
    assert summary["quantization"]["dense"] == {"dtype": "f16", "group_size": 16}

    shown = json.loads(invoke("inspect", out, "--json"))
    sources = ["config", "generation_config.json", "special_tokens_map.json"]
    end = {"token_id": 2, "text": "</s>", "sources": sources}
    assert shown == read_manifest(out) | {"end_of_sequence": [end]}
    table = invoke("inspect", out)
    for text in ("mixtral", "int8, group size 64", "softmax, top 2 of 8", "128 columns"):
        assert text in table
    assert f"{summary['files']['experts.safetensors']['bytes']:,} bytes" in table

    with pytest.raises(ExportError, match="exists already"):
        invoke("export", tiny_checkpoint, out)
    invoke("export", tiny_checkpoint, out, "--overwrite")
    assert read_manifest(out)["quantization"]["experts"]["dtype"] == "int4"


def test_bad_tile_width_is_explained(tiny_checkpoint, tmp_path):
    with pytest.raises(ExportError, match="'wide': give 'auto' or a number"):
        invoke("export", tiny_checkpoint, tmp_path / "out", "--tile-width", "wide")


def test_onnx_models_come_with_the_pack_or_later(tiny_checkpoint, tmp_path):
    import_here("onnx")
    pack = tmp_path / "out.adapmoe"
    summary = json.loads(invoke("export", tiny_checkpoint, pack, "--onnx", "--json"))
    assert (summary["onnx"]["models"], summary["onnx"]["kept"]) == (64, 0)
    assert summary["quantization"]["experts"]["dtype"] == "int4"
    again = json.loads(invoke("export", pack, "--onnx", "--json"))
    assert again == {"pack": str(pack), "onnx": summary["onnx"] | {"kept": 64}}
    assert "64 were there already" in invoke("export", pack, "--onnx")


def test_what_is_missing_for_onnx_is_explained(tiny_checkpoint, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="give OUT, the pack to write"):
        invoke("export", tiny_checkpoint)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"pip install 'adapmoe\[onnx\]'"):
        invoke("export", tiny_checkpoint, tmp_path / "out.adapmoe", "--onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_without_out_wants_a_pack(tiny_checkpoint):
    import_here("onnx")
    with pytest.raises(ExportError, match="is not a pack, so OUT must be given"):
        invoke("export", tiny_checkpoint, "--onnx")
