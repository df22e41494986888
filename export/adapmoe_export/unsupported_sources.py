# SPDX-License-Identifier: Apache-2.0
"""Sources that people try and that cannot be exported, refused by name with what to use instead."""

from collections.abc import Collection, Iterable
from pathlib import Path

from adapmoe.errors import CheckpointError
from adapmoe_export.architecture import Json, shown

_ORIGINAL = (
    "the exporter does its own quantizing and needs the weights as trained: give it the "
    "checkpoint that this one was made from, in bf16, f16 or f32"
)
_CONVERT = (
    "convert it first: AutoModelForCausalLM.from_pretrained(checkpoint, dtype='auto')"
    ".save_pretrained(new_directory)"
)
# Fields that transformers follows away from config.json's other fields or the usual weight files.
_ELSEWHERE = {
    "configuration_files": "transformers reads another file in place of config.json",
    "transformers_weights": "transformers reads the weights from the file that it names",
    "per_layer_config": "transformers gives layers configs of their own",
}
_POINTER = b"version https://git-lfs"
_METHODS = {"gptq": "GPTQ", "awq": "AWQ", "fp8": "FP8", "fbgemm_fp8": "FP8"}

# Ends of tensor names -> what writes them. The first match counts: GPTQ has qweight too.
_NAME_ENDINGS = {
    (".g_idx",): "GPTQ",
    (".qweight", ".qzeros"): "AWQ or GPTQ",
    (".absmax", ".quant_map", ".SCB", ".bitsandbytes__nf4", ".bitsandbytes__fp4"): "bitsandbytes",
    (".weight_scale_inv", ".weight_scale", ".input_scale"): "FP8",
}


def refuse_path(path: Path) -> None:
    """Raise CheckpointError unless `path` is a directory that may hold safetensors weights."""
    if path.suffix == ".gguf" or (path.is_dir() and _only(path, "*.gguf")):
        raise CheckpointError(f"{path}: is GGUF, which is already quantized; {_ORIGINAL}")
    if not path.is_dir():
        raise CheckpointError(f"{path}: not a directory; give a Hugging Face checkpoint")
    for pattern in ("*.bin", "*.pth", "*.pt"):
        if _only(path, pattern):
            raise CheckpointError(
                f"{path}: holds PyTorch files ({pattern}) only, which are not read because opening "
                f"them can run code; {_CONVERT}"
            )
    if (path / "params.json").is_file() and not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path}: is in Mistral's own layout (params.json); give the Hugging Face version of "
            "the model, with config.json and model*.safetensors"
        )
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{path}: holds an adapter (adapter_config.json), which transformers adds to the "
            "weights; merge it first: PEFT's merge_and_unload(), then save_pretrained(directory)"
        )


def refuse_pointers(paths: Iterable[Path]) -> None:
    """Raise CheckpointError if any of the files, where they exist, is a Git LFS pointer."""
    pointers = [path for path in paths if path.is_file() and _is_pointer(path)]
    if pointers:
        names = ", ".join(path.name for path in pointers)
        raise CheckpointError(
            f"{pointers[0].parent}: only Git LFS pointers are there, not the files themselves: "
            f"{names}; run `git lfs pull` in that directory, or download the files again"
        )


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def refuse_config(config: Json, path: Path) -> None:
    """Raise CheckpointError if the config.json at `path` asks for what the exporter does not do.

    That is quantized weights, and fields by which transformers reads other files or other fields.
    """
    for key, meaning in _ELSEWHERE.items():
        if config.get(key):
            raise CheckpointError(
                f"{path}: {key} is {shown(config[key])}: {meaning}, which the exporter does not "
                f"do; {_CONVERT}"
            )
    quantization = config.get("quantization_config")
    if quantization is None:
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    name = _METHODS.get(str(method).lower(), method) or "unknown method"
    raise CheckpointError(f"{path}: the checkpoint is already quantized ({name}); {_ORIGINAL}")


def refuse_names(names: Collection[str], path: Path) -> None:
    """Raise CheckpointError if the tensors' names are those of a quantized checkpoint."""
    for endings, method in _NAME_ENDINGS.items():
        for name in sorted(names):
            if name.endswith(endings):
                raise CheckpointError(
                    f"{path}: the checkpoint is already quantized ({method}: it holds {name}); "
                    f"{_ORIGINAL}"
                )


def refuse_dtype(where: str, dtype: str) -> None:
    """Raise CheckpointError: `where` (file and tensor) is in a dtype that is not read."""
    if dtype.startswith("F8"):
        raise CheckpointError(f"{where} is {dtype}, so the checkpoint is FP8; {_ORIGINAL}")
    raise CheckpointError(f"{where} is {dtype}, expected BF16, F16 or F32")


def _only(path: Path, pattern: str) -> bool:
    """Whether the directory has such files and no safetensors."""
    return any(path.glob(pattern)) and not any(path.glob("*.safetensors*"))
