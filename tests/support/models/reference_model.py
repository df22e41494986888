# SPDX-License-Identifier: Apache-2.0
"""The reference implementation: transformers' MixtralForCausalLM in float32, and models for it.

torch and transformers are imported where they are used: collecting tests must not need them.
"""

import json
import math
from pathlib import Path

import numpy as np

from support.models.checkpoints import write_checkpoint
from support.packs.pack_reader import read_dense, read_expert


def load_reference(checkpoint: Path):
    """The model of a checkpoint directory, float32."""
    import torch
    from transformers import MixtralForCausalLM

    return MixtralForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def reference_logits(model, ids):
    """Logits of all positions, float32 [n, vocab_size], and the smallest router margin met.

    The margin of a position and layer is how far the last chosen expert's router logit is above
    the best one that was not chosen. Where it is as small as float32 noise, two correct
    implementations may choose different experts.
    """
    import torch

    with torch.no_grad():
        output = model(torch.tensor(ids[None].astype(np.int64)), output_router_logits=True)
    top_k, margin = model.config.num_experts_per_tok, math.inf
    if top_k < model.config.num_local_experts:
        for router_logits in output.router_logits:
            ranked = router_logits.sort(dim=-1, descending=True).values
            margin = min(margin, (ranked[:, top_k - 1] - ranked[:, top_k]).min().item())
    return output.logits[0].numpy(), margin


def reference_perplexity(model, ids, window):
    """exp of the mean nll over windows that do not see each other, and how many tokens it covers.

    As adapmoe.calibration.statistics defines it: the first token of each window is not predicted.
    """
    import torch

    *windows, last = [ids[at : at + window] for at in range(0, len(ids) - 1, window)]
    batches = [windows[at : at + 8] for at in range(0, len(windows), 8)] + [[last]]
    total, tokens = 0.0, 0
    for batch in batches:
        rows = torch.tensor(batch)
        with torch.no_grad():
            scores = model(rows).logits[:, :-1].double().log_softmax(-1)
        total -= scores.gather(2, rows[:, 1:, None]).sum().item()
        tokens += rows[:, 1:].numel()
    return math.exp(total / tokens), tokens


# Standard deviation of a weight, times sqrt(columns). Sharp attention and a decided router make
# every mistake in them visible in the logits, whose own deviation is about that of lm_head.
_GAINS = {"q_proj": 2.0, "k_proj": 2.0, "gate": 4.0, "lm_head": 1.3, "embed_tokens": 1.3}


def save_random_model(checkpoint: Path, seed: int, rope_style: str = "parameters", **config):
    """Write a random float32 model as a checkpoint and return it.

    `rope_style` "parameters": config.json as transformers 5 writes it; "theta": as 4 does.
    """
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    theta = config.pop("rope_theta")
    config["rope_parameters"] = {"rope_theta": theta, "rope_type": "default"}
    model = MixtralForCausalLM(MixtralConfig(**config)).eval()
    model.set_experts_implementation("eager")  # the default refuses sizes not divisible by 4
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        values = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            weight.data = 1 + 0.1 * values
        else:
            gain = _GAINS.get(name.split(".")[-2], 1.0)
            weight.data = gain / math.sqrt(weight.shape[-1]) * values
    model.save_pretrained(checkpoint)
    if rope_style == "theta":
        path = checkpoint / "config.json"
        written = json.loads(path.read_text())
        del written["rope_parameters"]
        path.write_text(json.dumps(written | {"rope_theta": theta}))
    return model


def write_dequantized(pack: Path, source: Path, checkpoint: Path) -> Path:
    """A float32 checkpoint with exactly the weights of a pack; config.json as in `source`."""
    config = json.loads((source / "config.json").read_text())
    wide = config["intermediate_size"]
    tensors = read_dense(pack)
    del tensors["rope.inv_freq"]
    for layer in range(config["num_hidden_layers"]):
        for expert in range(config["num_local_experts"]):
            gate_proj, up_proj, down_proj = read_expert(pack, layer, expert)
            prefix = f"model.layers.{layer}.block_sparse_moe.experts.{expert}"
            tensors[f"{prefix}.w1.weight"] = gate_proj[:wide]
            tensors[f"{prefix}.w3.weight"] = up_proj[:wide]
            tensors[f"{prefix}.w2.weight"] = down_proj[:, :wide]
    contiguous = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    return write_checkpoint(checkpoint, config, contiguous)
