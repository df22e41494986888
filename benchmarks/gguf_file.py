# SPDX-License-Identifier: Apache-2.0
"""Run as a program: writes a pack as a GGUF file that llama.cpp opens.

Usage: python -m benchmarks.gguf_file PACK OUT.gguf
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

from adapmoe.pack.manifest import ModelConfig
from benchmarks.gguf_tensors import PackTensors


def write_gguf(pack: Path, out: Path) -> None:
    """Tensor by tensor, in a file that gets its name when it is complete.

    Raises ValueError for a pack that is not int4 in groups of 32 throughout, ImportError without
    the package `gguf`.
    """
    import gguf

    tensors = PackTensors(pack)
    partial = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    add_fields(writer, tensors.config)
    for tensor in tensors:
        dtype = gguf.GGMLQuantizationType.Q4_0 if tensor.quantized else None
        numpy_dtype = np.dtype(np.uint8 if tensor.quantized else np.float32)
        nbytes = int(np.prod(tensor.shape)) * numpy_dtype.itemsize
        writer.add_tensor_info(tensor.name, tensor.shape, numpy_dtype, nbytes, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.read())
    writer.close()
    # Only clean pages can be dropped from the page cache before a cold run.
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.rename(out)


def add_fields(writer, config: ModelConfig) -> None:
    """What llama.cpp must know besides the weights. No vocabulary, because token ids are fed."""
    import gguf

    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(1.0)  # the frequencies come with the divisors
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_tokenizer_model("no_vocab")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, help="int4 in groups of 32, dense weights too")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    began = time.perf_counter()
    write_gguf(arguments.pack, arguments.out)
    seconds = time.perf_counter() - began
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes in {seconds:.1f} s")


if __name__ == "__main__":
    main()
