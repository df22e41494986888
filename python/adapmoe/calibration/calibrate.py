# SPDX-License-Identifier: Apache-2.0
"""Measures all that calibration.json holds."""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from adapmoe import _core
from adapmoe.calibration.gate_rule import expert_shares, single_expert_ratio
from adapmoe.calibration.lookahead import (
    FirstLayerGate,
    LookaheadScore,
    Recorded,
    record,
    train_first_layer_gate,
)
from adapmoe.calibration.probe import (
    FEWEST_WINDOWS,
    Ids,
    Probe,
    Windows,
    cut_windows,
    split_windows,
)
from adapmoe.calibration.sensitivity import (
    check_checkpoint,
    direct_sensitivities,
    fisher_sensitivities,
)
from adapmoe.calibration.statistics import routing_statistics, spearman
from adapmoe.calibration.threshold import (
    candidates_from,
    search_residency,
    search_sensitivity,
    sensitivity_reads,
)
from adapmoe.errors import CalibrationError
from adapmoe.machine.files import read_text
from adapmoe.pack.calibration import (
    Calibration,
    Gating,
    Provenance,
    Sensitivities,
    Trained,
    read_calibration,
    write_calibration,
)
from adapmoe.pack.weights import DenseTensors
from adapmoe.text.tokenizer import Tokenizer

METHODS = ("direct", "fisher")

# (what is being done, steps done, steps in all)
Progress = Callable[[str, int, int], None]

_AIM_SECONDS = 240.0
_MOST_WINDOWS = 256


@dataclass(frozen=True)
class Settings:
    """How to calibrate.

    Attributes:
        method: "direct", or "fisher", which needs `checkpoint`.
        max_perplexity_increase: the contract; 0.01 is one percent.
        windows: how many of 256 tokens, or as many as the model was trained for, to use; None: as
            many as take about four minutes.
        memory, threads: as for `LLM`.
        memory_fraction: share of the experts resident while gating="residency" is measured and
            bytes are counted; None leaves that out.
        checkpoint: the Hugging Face directory that the pack was made from.
    """

    method: str = "direct"
    max_perplexity_increase: float = 0.01
    windows: int | None = None
    memory: int | str = "auto"
    threads: int | None = None
    memory_fraction: float | None = 0.5
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for settings that make no sense."""
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if (self.method == "fisher") != (self.checkpoint is not None):
            raise ValueError("the checkpoint is needed for --method fisher, and only for it")
        if not 0 < self.max_perplexity_increase <= 1:
            raise ValueError("the perplexity increase must be above 0% and at most 100%")


def calibrate(
    pack: Path, text: Path, settings: Settings, progress: Progress = lambda *_: None
) -> Calibration:
    """Measure, write calibration.json and first_layer_gate.npy, and return the former.

    Raises:
        CalibrationError: the text is too short, the model uses one expert per token, or the pack
            cannot be written to.
        AdapmoeError, ValueError: as opening an `LLM` does.
    """
    if settings.checkpoint is not None:
        check_checkpoint(pack, settings.checkpoint)
    content = read_text(text)
    ids = np.array(Tokenizer.from_pack(pack).encode(content), dtype=np.int32)
    with Probe(pack, memory=settings.memory, threads=settings.threads) as probe:
        if probe.top_k < 2:
            raise CalibrationError(
                f"{pack}: the model uses one expert per token, so there is none to leave out"
            )
        all_windows = cut_windows(ids, probe.window_tokens)
        count = settings.windows or _affordable(probe, all_windows)
        windows = split_windows(all_windows, count)
        provenance = Provenance(
            text=text.name,
            text_sha256=hashlib.sha256(content.encode()).hexdigest(),
            windows=count,
            window_tokens=probe.window_tokens,
            adapmoe=_core.__version__,
        )
        dense = DenseTensors(pack)
        score = LookaheadScore(dense, probe.config, probe.top_k)
        fit = record(probe, windows.fit, lambda *at: progress("routing, fit", *at))
        held_out = record(
            probe, windows.held_out, lambda *at: progress("routing, held out", *at), score
        )
        gate = train_first_layer_gate(fit, held_out, dense, probe.top_k, probe.config.rms_norm_eps)
        methods = _sensitivity(probe, pack, windows, settings, provenance, progress)
        values = methods[settings.method].values
        gating = _gating(pack, probe, held_out, values, settings, progress)
        single = _single_ratio(probe, windows.held_out, values, gating.sensitivity.threshold)
    found = Calibration(
        predictor=score.accuracy(),
        first_layer_gate=_accuracies(gate),
        sensitivity=methods,
        rank_correlation=_rank_correlation(methods),
        gating=gating,
        single_ratio=single,
        routing=routing_statistics(held_out, probe.router),
        provenance=provenance,
    )
    return write_calibration(pack, found, gate.weights)


def _affordable(probe: Probe, windows: list[Ids]) -> int:
    """As many windows as take about _AIM_SECONDS, judged by the second of two."""
    probe.prefill(windows[0])
    begin = time.perf_counter()
    probe.prefill(windows[1])
    seconds = time.perf_counter() - begin
    # Half of the windows once per layer, the other half some ten times for the threshold.
    affordable = int(_AIM_SECONDS / (seconds * (probe.layers / 2 + 8)))
    fewest = min(4 * FEWEST_WINDOWS, len(windows))
    return min(max(affordable, fewest), len(windows), _MOST_WINDOWS)


def _accuracies(gate: FirstLayerGate) -> Trained:
    return Trained(
        accuracy=gate.accuracy,
        accuracy_with_embedding=gate.refined_accuracy,
        accuracy_of_router_on_embedding=gate.router_accuracy,
        accuracy_of_most_frequent=gate.frequency_accuracy,
    )


def _sensitivity(
    probe: Probe,
    pack: Path,
    windows: Windows,
    settings: Settings,
    provenance: Provenance,
    progress: Progress,
) -> dict[str, Sensitivities]:
    """s_i by this method, and by the other one if it was measured before."""

    def on_window(done: int, total: int) -> None:
        progress(f"sensitivity, {settings.method}", done, total)

    if settings.checkpoint is not None:
        values = fisher_sensitivities(settings.checkpoint, windows.fit, on_window)
    else:
        values = direct_sensitivities(probe, windows.fit, on_window)
    measured = Sensitivities(values=values, **msgspec.structs.asdict(provenance))
    return _previous_methods(pack) | {settings.method: measured}


def _previous_methods(pack: Path) -> dict[str, Sensitivities]:
    try:
        return read_calibration(pack).sensitivity
    except CalibrationError:
        return {}


def _rank_correlation(methods: dict[str, Sensitivities]) -> float | None:
    """None where only one method was measured, or one of them says nothing."""
    if not methods.keys() >= set(METHODS):
        return None
    measured = spearman(*(methods[name].values for name in METHODS))
    return None if math.isnan(measured) else measured


def _gating(
    pack: Path,
    probe: Probe,
    recorded: list[Recorded],
    values: list[float],
    settings: Settings,
    progress: Progress,
) -> Gating:
    held_out, limit = [r.ids for r in recorded], settings.max_perplexity_increase
    candidates = candidates_from(recorded, values, probe)
    search = (held_out, values, candidates, limit)
    sensitivity = search_sensitivity(
        probe, *search, lambda done, total: progress("gating, sensitivity", done, total)
    )
    if settings.memory_fraction is None:
        return Gating(
            method=settings.method, max_perplexity_increase=limit, sensitivity=sensitivity
        )
    fraction = settings.memory_fraction
    with Probe(pack, experts_resident=fraction, threads=settings.threads) as small:
        residency = search_residency(
            small,
            *search,
            sensitivity.threshold,
            lambda done, total: progress("gating, residency", done, total),
        )
        reads = sensitivity_reads(small, held_out, values, sensitivity.threshold)
    return Gating(
        method=settings.method,
        max_perplexity_increase=limit,
        sensitivity=msgspec.structs.replace(
            sensitivity,
            bytes_per_token=reads,
            bytes_per_token_without=residency.bytes_per_token_without,
        ),
        residency=residency,
        memory_fraction=fraction,
    )


def _single_ratio(
    probe: Probe, windows: list[Ids], sensitivity: list[float], threshold: float
) -> list[float]:
    """Share of tokens with a single expert, per layer, with the routing that this gate leads to."""
    probe.set_gating("sensitivity", threshold, sensitivity)
    logits = np.concatenate([probe.capture(window).router_logits for window in windows], axis=1)
    probe.set_gating("off")
    shares = expert_shares(logits, probe.router)
    return [float(r) for r in single_expert_ratio(shares, np.asarray(sensitivity), threshold)]
