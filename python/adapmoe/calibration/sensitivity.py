# SPDX-License-Identifier: Apache-2.0
"""The sensitivity of each layer, by leaving experts out (direct) or by gradients (Fisher)."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adapmoe.calibration.probe import Ids, Probe
from adapmoe.calibration.statistics import divergence
from adapmoe.errors import CalibrationError, CheckpointError
from adapmoe.generation.sampling import log_softmax
from adapmoe.pack.manifest import Manifest


def direct_sensitivities(
    probe: Probe, windows: list[Ids], on_window: Callable[[int, int], None]
) -> list[float]:
    """Nats of divergence per unit of squared weight that a layer drops, one per layer.

    s_i = mean over tokens of KL(full model || layer i alone drops)
          / mean over tokens of the squared share of the weight dropped

    A layer drops its weakest experts as long as they weigh less than 1 / top_k together. With two
    experts per token that is exactly the second one; with more it always is the weakest, and others
    only where they hardly count, because the quadratic rule holds for small losses.
    """
    kl, dropped = np.zeros(probe.layers), np.zeros(probe.layers)
    for done, window in enumerate(windows, start=1):
        probe.set_gating("off")
        full = log_softmax(probe.prefill(window)[0])
        for layer in range(probe.layers):
            only_here = [math.inf] * probe.layers
            only_here[layer] = 1.0
            probe.set_gating("sensitivity", 1 / probe.top_k**2, only_here)
            logits, stats = probe.prefill(window)
            kl[layer] += divergence(full, log_softmax(logits)).sum()
            dropped[layer] += stats.dropped_share_sq
        on_window(done, len(windows))
    probe.set_gating("off")
    return [float(s) for s in np.maximum(kl, 0.0) / dropped]


def check_checkpoint(pack: Path, checkpoint: Path) -> None:
    """Raise CheckpointError unless the pack was made from this checkpoint, as config.json tells."""
    expected = Manifest.read(pack).source_config_sha256
    config = checkpoint / "config.json"
    try:
        found = hashlib.sha256(config.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{config}: cannot be read: {error.strerror}") from error
    if expected is not None and found != expected:
        raise CheckpointError(
            f"{config}: SHA-256 is {found}, but {pack} was exported from a checkpoint whose "
            f"config.json has {expected}; give the checkpoint of this pack"
        )


def fisher_sensitivities(
    checkpoint: Path, windows: list[Ids], on_window: Callable[[int, int], None]
) -> list[float]:
    """The second-order Taylor term of dropping, per unit of squared weight, one per layer.

    s_i = 1/2 * mean over tokens of sum_d g_d^2 * (D_d / share)^2

    g is the gradient of a window's summed loss with respect to the output of layer i's MoE block
    (the diagonal of the Fisher information stands for the Hessian), D what that output changes by
    when the weakest experts are dropped that weigh less than 1 / top_k together, and share their
    share of the weight. With two experts D / share is the difference of their outputs.

    Raises:
        CalibrationError: torch or transformers is missing, or the checkpoint is no such model.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise CalibrationError(
            f"--method fisher needs the Python package {error.name!r}, which is missing: "
            "pip install 'adapmoe[calibrate]'"
        ) from error
    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, experts_implementation="eager"
    )
    model.eval().requires_grad_(False)
    blocks = [_BlockRecorder(layer.mlp.experts) for layer in model.model.layers]
    total, tokens = np.zeros(len(blocks)), np.zeros(len(blocks))
    for done, window in enumerate(windows, start=1):
        ids = torch.from_numpy(window.astype(np.int64))
        logits = model(ids[None]).logits[0]
        loss: Any = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")
        loss.backward()
        for i, block in enumerate(blocks):
            terms = block.terms()
            total[i] += terms.sum()
            tokens[i] += terms.size
        on_window(done, len(windows))
    return [float(s) for s in total / tokens]


class _BlockRecorder:
    """Hooks into one layer's experts: keeps the gradient of their output, and the change D."""

    def __init__(self, experts: Any) -> None:
        self._change: Any = None
        self._share: Any = None
        self._output: Any = None
        experts.register_forward_hook(self._record)

    def _record(self, experts: Any, args: tuple[Any, ...], output: Any) -> Any:
        import torch

        hidden, index, weights = args
        with torch.no_grad():
            order = weights.argsort(dim=-1, descending=True)
            share = (weights / weights.sum(-1, keepdim=True)).gather(1, order)
            from_weakest = share.flip(-1).cumsum(-1).flip(-1)
            dropped = (from_weakest < 1 / weights.shape[-1]) & (torch.arange(share.shape[-1]) > 0)
            self._share = (share * dropped).sum(-1)
            left = torch.where(dropped, 0.0, share)
            left = left / left.sum(-1, keepdim=True) * weights.sum(-1, keepdim=True)
            self._change = output - experts.forward(hidden, index.gather(1, order), left)
        # Added zeros: a leaf whose gradient is that of the block's output.
        self._output = torch.zeros_like(output, requires_grad=True)
        return output + self._output

    def terms(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """1/2 sum_d g_d^2 (D_d / share)^2 of every token where something could be dropped.

        The last token of a window is left out: nothing is predicted from it.
        """
        gradient, change, share = (
            t[:-1].double().numpy() for t in (self._output.grad, self._change, self._share)
        )
        some = share > 0
        ratio = change[some] / share[some, None]
        terms: np.ndarray[Any, np.dtype[np.float64]]
        terms = 0.5 * (np.square(gradient[some]) * np.square(ratio)).sum(axis=1)
        return terms
