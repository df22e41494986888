# SPDX-License-Identifier: Apache-2.0
"""From the settings of a pack, its sidecars and this machine to an open session of the core."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapmoe.machine.cuda import load_packaged_tensorrt
from adapmoe.opening.allocation import check_allocation
from adapmoe.opening.expert_path import choose_expert_path, device_probe
from adapmoe.opening.gating import choose_first_layer, choose_gating
from adapmoe.opening.read_settings import ReadSettings, read_settings
from adapmoe.pack.manifest import Manifest, check_small_files
from adapmoe.settings import Settings

if TYPE_CHECKING:
    from adapmoe import _core

_log = logging.getLogger("adapmoe")


def core_options(pack: Path, settings: Settings) -> tuple[dict[str, Any], ReadSettings]:
    """The options of a core session by name, and how it reads. Logs what had to be measured.

    Raises:
        CalibrationError: a setting needs a calibration, and the pack has none or another pack's.
        BackendUnavailableError, ReadError: what had to be measured cannot be.
    """
    gating = choose_gating(pack, settings.gating, settings.gating_threshold, settings.sensitivity)
    check_allocation(pack, settings.allocation)
    reading = read_settings(
        pack,
        settings.reader,
        settings.read_depth,
        settings.request_bytes,
        settings.register_buffers,
    )
    options = settings.for_core() | _choose_experts(pack, settings)
    options |= reading.core_settings() | gating.options
    options |= choose_first_layer(pack, settings.prefetch, settings.first_layer).options
    return options, reading


def open_core_session(path: str, **options: Any) -> "_core.Session":
    """Open a pack with these options.

    Raises:
        PackError, EngineError, BudgetError, BackendUnavailableError, ValueError: as `LLM`.
    """
    from adapmoe._core import Session

    check_small_files(Path(path), Manifest.read(Path(path)))
    if options["arithmetic"] == "tensorrt":
        load_packaged_tensorrt()
    return Session(path, **options)


def _choose_experts(pack: Path, settings: Settings) -> dict[str, str]:
    """Backend and arithmetic."""
    probe = device_probe(pack, settings.backend)
    choice = choose_expert_path(settings.arithmetic, exact=settings.exact, probe=probe)
    if choice.note:
        _log.warning("%s", choice.note)
    return {"backend": choice.backend(settings.backend), "arithmetic": choice.path}
