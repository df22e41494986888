# SPDX-License-Identifier: Apache-2.0
"""The model under measurement: one window in, what the runtime made of it out."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from adapmoe import _core
from adapmoe.errors import CalibrationError
from adapmoe.pack.manifest import Manifest
from adapmoe.units import parse_memory

WINDOW_TOKENS = 256  # less for a model that was trained for less
FEWEST_WINDOWS = 4

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Windows:
    """Windows of int32 `[n]`, all of the same length, that do not see each other.

    Attributes:
        fit: sensitivities are measured and the first layer's gate is trained on these.
        held_out: the contract and all accuracies are measured on these, from later in the text.
    """

    fit: list[Ids]
    held_out: list[Ids]


def window_tokens(positions: int) -> int:
    """How long the windows of a model are that was trained for so many positions.

    Raises:
        CalibrationError: no token could be predicted in one.
    """
    if positions < 2:
        raise CalibrationError(
            f"the model has {positions} position (max_position_embeddings): calibration predicts "
            "tokens from those before them, which needs 2"
        )
    return min(positions, WINDOW_TOKENS)


def cut_windows(ids: Ids, tokens: int = WINDOW_TOKENS) -> list[Ids]:
    """All whole windows of a text, of so many tokens each.

    Raises:
        CalibrationError: the text has fewer than FEWEST_WINDOWS.
    """
    windows = [ids[end - tokens : end] for end in range(tokens, len(ids) + 1, tokens)]
    if len(windows) < FEWEST_WINDOWS:
        raise CalibrationError(
            f"the text has {len(ids)} tokens, calibration needs {FEWEST_WINDOWS * tokens} "
            "or more: give a longer text of the kind that the model will see"
        )
    return windows


def split_windows(windows: list[Ids], count: int) -> Windows:
    """Take `count` windows spread evenly over the text: the first half to fit, the rest held out.

    Raises:
        ValueError: `count` is below FEWEST_WINDOWS or above the number of windows.
    """
    if not FEWEST_WINDOWS <= count <= len(windows):
        raise ValueError(
            f"windows must be from {FEWEST_WINDOWS} to {len(windows)}, "
            f"as many as the text has, not {count}"
        )
    chosen = [windows[i * len(windows) // count] for i in range(count)]
    half = (count + 1) // 2
    return Windows(chosen[:half], chosen[half:])


F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Captured:
    """What one window of n tokens left behind, float32; L layers, H hidden_size, E experts.

    Attributes:
        hidden: `[L, n, H]`, the residual stream before the MoE block.
        moe_input: `[L, n, H]`, the same after its norm.
        router_logits: `[L, n, E]`.
        final_hidden: `[n, H]`, after the last norm.
    """

    hidden: F32
    moe_input: F32
    router_logits: F32
    final_hidden: F32


class Probe:
    """A session for windows, with the gate changed between them."""

    def __init__(
        self,
        pack: Path,
        *,
        memory: int | str = "auto",
        experts_resident: float = 0.0,
        threads: int | None = None,
    ) -> None:
        """Open `pack`. Raises what `LLM` raises; CalibrationError for a model of one position."""
        manifest = Manifest.read(pack)
        self.config, self.router = manifest.config, manifest.router
        self.window_tokens = window_tokens(self.config.max_position_embeddings)
        self._session = _core.Session(
            str(pack),
            memory=parse_memory(memory),
            experts_resident=experts_resident,
            threads=threads or 0,
            max_context=self.window_tokens,
            prefill_chunk=self.window_tokens,
            prefetch=0,
        )
        self._sequence = self._session.new_sequence()

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.config.num_hidden_layers

    @property
    def experts(self) -> int:
        """Experts per layer."""
        return self.config.num_local_experts

    @property
    def top_k(self) -> int:
        """Experts per token, without gating."""
        return self.router.top_k

    def set_gating(
        self, mode: str, threshold: float = 0.0, sensitivity: list[float] | None = None
    ) -> None:
        """Use this gate from the next window on."""
        self._session.set_gating(mode, threshold, sensitivity or [])

    def prefill(self, window: Ids) -> tuple[F32, _core.StepStats]:
        """Logits `[n, vocab_size]` of a window, computed at once."""
        self._sequence.reset()
        return self._sequence.prefill(window, True)

    def decode(self, window: Ids) -> tuple[F32, list[_core.StepStats]]:
        """The same token by token, as generation would, so that the cache is used as it will be."""
        self._sequence.reset()
        steps = [self._sequence.decode(int(token)) for token in window]
        return np.stack([logits for logits, _ in steps]), [stats for _, stats in steps]

    def capture(self, window: Ids) -> Captured:
        """Activations of a window."""
        self._sequence.reset()
        found = self._sequence.capture(window)
        return Captured(
            found["hidden"], found["moe_input"], found["router_logits"], found["final_hidden"]
        )

    def __enter__(self) -> "Probe":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the session."""
        self._session.close()
