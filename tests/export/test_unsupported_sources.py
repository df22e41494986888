# SPDX-License-Identifier: Apache-2.0
"""Sources that people try are refused by name, with what to use instead."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from adapmoe.errors import CheckpointError
from adapmoe_export import export_pack
from support.models.checkpoints import fuse_experts, make_config, make_tensors, write_checkpoint

W1 = "model.layers.0.block_sparse_moe.experts.0.w1"
ORIGINAL = "give it the checkpoint that this one was made from, in bf16, f16 or f32"


def refuse(source, tmp_path, *texts):
    with pytest.raises(CheckpointError) as error:
        export_pack(source, tmp_path / "out.adapmoe")
    for text in (str(source), *texts):
        assert text in str(error.value)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("gptq", "GPTQ"),
        ("awq", "AWQ"),
        ("bitsandbytes", "bitsandbytes"),
        ("fp8", "FP8"),
        ("compressed-tensors", "compressed-tensors"),
        (None, "unknown method"),
    ],
)
def test_quantization_config(tmp_path, method, name):
    config = make_config(quantization_config={"quant_method": method})
    source = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(make_config()))
    refuse(source, tmp_path, f"config.json: the checkpoint is already quantized ({name})", ORIGINAL)


@pytest.mark.parametrize(
    ("names", "method"),
    [
        (["qweight", "qzeros", "scales", "g_idx"], "GPTQ"),
        (["qweight", "qzeros", "scales"], "AWQ or GPTQ"),
        (["weight", "weight.absmax", "weight.quant_map"], "bitsandbytes"),
        (["weight", "weight.quant_state.bitsandbytes__nf4"], "bitsandbytes"),
        (["weight", "SCB"], "bitsandbytes"),
        (["weight", "weight_scale_inv"], "FP8"),
    ],
)
def test_quantized_names(tmp_path, names, method):
    tensors = make_tensors(make_config())
    del tensors[f"{W1}.weight"]
    tensors |= {f"{W1}.{name}": np.zeros(4, np.int32) for name in names}
    source = write_checkpoint(tmp_path / "checkpoint", make_config(), tensors)
    refuse(source, tmp_path, f"already quantized ({method}: it holds {W1}", ORIGINAL)


def test_fp8_weights(tmp_path):
    tensors = make_tensors(make_config())
    tensors[f"{W1}.weight"] = tensors[f"{W1}.weight"].astype(ml_dtypes.float8_e4m3fn)
    source = write_checkpoint(tmp_path / "checkpoint", make_config(), tensors)
    refuse(source, tmp_path, f"tensor {W1}.weight is F8_E4M3", "FP8", ORIGINAL)


def test_gguf(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "mixtral-q4.gguf"
    file.write_bytes(b"GGUF")
    refuse(file, tmp_path, "is GGUF", ORIGINAL)
    refuse(folder, tmp_path, "is GGUF", ORIGINAL)


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00002.bin", "model.pth", "model.pt"])
def test_pytorch_files(tmp_path, name):
    source = write_checkpoint(tmp_path / "checkpoint", make_config(), make_tensors(make_config()))
    (source / "model.safetensors").rename(source / name)
    refuse(source, tmp_path, "PyTorch files", "save_pretrained")


def test_mistrals_own_layout(tmp_path):
    source = tmp_path / "checkpoint"
    source.mkdir()
    (source / "params.json").write_text("{}")
    save_file({"tok_embeddings.weight": np.zeros(4)}, source / "consolidated.safetensors")
    refuse(source, tmp_path, "Mistral's own layout", "Hugging Face version")


def test_unknown_architecture_lists_the_known(tmp_path):
    config = make_config(model_type="qwen2_moe")
    source = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config))
    refuse(source, tmp_path, "model_type 'qwen2_moe' is not implemented; have mixtral")


def test_fused_tensor_problems_are_named(tmp_path):
    config = make_config()
    fused = fuse_experts(config, make_tensors(config, dtype="F32"))
    name = "model.layers.1.mlp.experts.down_proj"

    bad = fused | {name: fused[name].copy()}
    bad[name][3, 5, 90] = np.nan
    source = write_checkpoint(tmp_path / "nan", config, bad)
    refuse(source, tmp_path, f"tensor {name} holds nan at [3, 5, 90]; weights must be finite")

    bad = fused | {name: np.ascontiguousarray(fused[name].transpose(0, 2, 1))}
    source = write_checkpoint(tmp_path / "shape", config, bad)
    refuse(source, tmp_path, f"{name} has shape [4, 96, 64], expected [4, 64, 96]")

    bad = fused | {"model.layers.0.block_sparse_moe.gate.weight": np.zeros((4, 64), np.float32)}
    source = write_checkpoint(tmp_path / "twice", config, bad)
    refuse(source, tmp_path, "are the same tensor")
