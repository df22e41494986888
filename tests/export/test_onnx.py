# SPDX-License-Identifier: Apache-2.0
"""ONNX models: the pack's own integers, and the same results as the CPU."""

import json
import shutil
import sys

import numpy as np
import pytest

from adapmoe.errors import EngineError, PackError
from adapmoe.pack.onnx_models import MAX_ROWS, read_onnx_models
from adapmoe_export import ExportError, export_pack
from support.core.cpu_expert import CpuExpert
from support.models.checkpoints import make_config, make_tensors, write_checkpoint
from support.packs.pack_reader import read_expert, read_manifest
from support.source.imports import import_here

onnx = import_here("onnx")
import_here("onnxruntime")

from adapmoe_export.onnx_export import export_onnx  # noqa: E402
from support.models.onnx_models import constants, reference, relative_l2, run_model  # noqa: E402

LAYERS = EXPERTS = 8  # of tiny-mixtral
FLOAT_LIMIT, CPU_LIMIT = 1e-3, 0.02


def inputs(rows, hidden_size, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, hidden_size)).astype(np.float16)


@pytest.fixture(scope="module")
def with_models(pack_factory, tmp_path_factory):
    """A function from export options to a pack with ONNX models. Change nothing in it."""
    made = {}

    def make(**options):
        key = tuple(options.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp("onnx") / "tiny.adapmoe"
            shutil.copytree(pack_factory(**options), made[key])
            export_onnx(made[key])
        return made[key]

    return make


@pytest.fixture
def small(tmp_path):
    """A pack of 2 layers x 4 experts that a test may change."""
    config = make_config()
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config))
    export_pack(checkpoint, tmp_path / "small.adapmoe")
    return tmp_path / "small.adapmoe"


def model_path(pack, layer, expert):
    return pack / "onnx" / f"layer{layer}-expert{expert}.onnx"


def test_every_model_is_valid_and_close_to_float_and_to_the_cpu(with_models, capsys):
    pack = with_models(tile_width=64)
    cpu = CpuExpert(pack)
    worst_float = worst_cpu = 0.0
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            path = model_path(pack, layer, expert)
            onnx.checker.check_model(path, full_check=True)
            x = inputs(1 + (layer + expert) % MAX_ROWS, 256, layer)
            y = run_model(path, x)
            assert y.dtype == np.float16
            worst_float = max(worst_float, relative_l2(y, reference(pack, layer, expert, x)))
            w4a8 = cpu.evaluate(layer, expert, x.astype(np.float32))
            worst_cpu = max(worst_cpu, relative_l2(y, w4a8))
    with capsys.disabled():
        print(f"\nonnxruntime: {worst_float:.1e} from float64, {worst_cpu:.1e} from the CPU")
    assert worst_float <= FLOAT_LIMIT
    assert worst_cpu <= CPU_LIMIT


@pytest.mark.parametrize(
    "options",
    [
        {"experts": "int4", "group_size": 128},
        {"experts": "int8", "group_size": 64, "tile_width": 128},
        {"experts": "f16"},
        {"experts": "f32", "tile_width": 16},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_dtype_gives_the_same_numbers(with_models, options):
    pack = with_models(**options)
    for layer, expert, rows in ((0, 0, 1), (3, 5, 7), (7, 7, MAX_ROWS)):
        x = inputs(rows, 256)
        y = run_model(model_path(pack, layer, expert), x)
        assert relative_l2(y, reference(pack, layer, expert, x)) <= FLOAT_LIMIT
        on_cpu = CpuExpert(pack).evaluate(layer, expert, x.astype(np.float32))
        assert relative_l2(y, on_cpu) <= CPU_LIMIT


@pytest.mark.parametrize("dtype", ["int4", "int8"])
def test_constants_are_the_packs_integers_and_scales(with_models, dtype):
    pack = with_models(experts=dtype, group_size=64, tile_width=128)
    model = onnx.load(model_path(pack, 2, 3))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    found = constants(model)
    for name, weights in zip(
        ("gate_proj", "up_proj", "down_proj"), read_expert(pack, 2, 3), strict=True
    ):
        quants, scales = found[f"{name}.quants"], found[f"{name}.scales"]
        assert scales.dtype == np.float16
        assert scales.shape == (quants.shape[0] // 64, quants.shape[1])
        values = quants.astype(np.float32) * np.repeat(scales.astype(np.float32), 64, axis=0)
        np.testing.assert_array_equal(values.T, weights)
    (blocks,) = {
        next(a.i for a in node.attribute if a.name == "block_size")
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    assert blocks == 64
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert (properties["layer"], properties["expert"]) == ("2", "3")


def test_padding_of_tiles_is_left_out(tmp_path):
    config = make_config(intermediate_size=80)  # three groups of 32 in tiles of 64
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config))
    pack = tmp_path / "odd.adapmoe"
    export_pack(checkpoint, pack, tile_width=64)
    export_onnx(pack)
    model = onnx.load(model_path(pack, 1, 2))
    assert constants(model)["down_proj.quants"].shape == (96, 64)
    x = inputs(3, 64)
    assert relative_l2(run_model(model_path(pack, 1, 2), x), reference(pack, 1, 2, x)) < 1e-3


def test_groups_that_do_not_divide_are_refused(tmp_path):
    config = make_config(hidden_size=80, num_attention_heads=5, num_key_value_heads=1)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config))
    export_pack(checkpoint, tmp_path / "odd.adapmoe")
    with pytest.raises(ExportError, match="hidden_size 80 is no multiple of the group size 32"):
        export_onnx(tmp_path / "odd.adapmoe")
    assert not (tmp_path / "odd.adapmoe" / "onnx").exists()


def contents(pack):
    return {path.name: path.read_bytes() for path in sorted((pack / "onnx").iterdir())}


class Stopped(Exception):
    pass


def stop_at(count):
    def progress(done, total):
        if done == count:
            raise Stopped

    return progress


def test_an_interrupted_export_goes_on_and_gives_the_same_bytes(small, tmp_path):
    whole = tmp_path / "whole.adapmoe"
    shutil.copytree(small, whole)
    assert export_onnx(whole).kept == 0
    with pytest.raises(Stopped):
        export_onnx(small, progress=stop_at(5))
    (small / "onnx" / ".layer1-expert2.onnx.123").write_bytes(b"half")
    assert export_onnx(small).kept == 5
    assert contents(small) == contents(whole)


def test_a_damaged_model_is_written_again(small):
    export_onnx(small)
    before = contents(small)
    model_path(small, 0, 1).write_bytes(b"damaged")
    model_path(small, 1, 3).unlink()
    assert export_onnx(small).kept == 6
    assert contents(small) == before


def test_models_of_another_pack_are_refused_and_replaced(small):
    export_onnx(small)
    path = small / "onnx" / "onnx.json"
    listed = json.loads(path.read_text())
    listed["manifest_sha256"] = "0" * 64
    path.write_text(json.dumps(listed))
    with pytest.raises(EngineError, match=r"of another pack.*adapmoe export .* --onnx"):
        read_onnx_models(small, small / "onnx")
    assert export_onnx(small).kept == 0
    assert len(read_onnx_models(small, small / "onnx")) == 8


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda model: model.update(file="../../secret"), r"`file` is not layer0-expert3\.onnx"),
        (lambda model: model.update(sha256="abc"), r"\$\.models\[3\]\.sha256"),
        (lambda model: model.update(layer=-1), r"\$\.models\[3\]\.layer"),
        (lambda model: model.update(bytes=10**400), r"\$\.models\[3\]\.bytes"),
        (lambda model: model.update(extra=1), r"unknown field `extra`.*\$\.models\[3\]"),
        (lambda model: model.pop("bytes"), r"required field `bytes`.*\$\.models\[3\]"),
        (lambda model: model.update(file="layer0-expert2.onnx", expert=2), "listed twice"),
    ],
)
def test_a_list_that_is_not_as_it_should_be_is_refused(small, change, where):
    export_onnx(small)
    path = small / "onnx" / "onnx.json"
    listed = json.loads(path.read_text())
    change(listed["models"][3])
    path.write_text(json.dumps(listed))
    with pytest.raises(EngineError, match=rf"onnx\.json: .*{where}.*; make it: adapmoe export"):
        read_onnx_models(small, small / "onnx")


def test_damaged_weights_do_not_become_a_model(small):
    path = small / "experts.safetensors"
    experts = read_manifest(small)["experts"]
    data = bytearray(path.read_bytes())
    data[experts["data_offset"] + 5 * experts["expert_bytes"] + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(PackError, match="tile 0 of expert 1 in layer 1: CRC-32C is"):
        export_onnx(small)
    assert len(read_onnx_models(small, small / "onnx")) == 5


def test_without_onnx_the_extra_is_named(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"pip install 'adapmoe\[onnx\]'"):
        export_onnx(small)
    assert not (small / "onnx").exists()
