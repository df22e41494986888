# SPDX-License-Identifier: Apache-2.0
"""Run Mixture-of-Experts language models that do not fit in memory."""

import importlib
from typing import TYPE_CHECKING

from adapmoe.errors import (
    AdapmoeError,
    BackendUnavailableError,
    BudgetError,
    CalibrationError,
    CancelledError,
    ChatTemplateError,
    CheckpointError,
    ClosedError,
    ContextOverflowError,
    ForkError,
    NonFiniteError,
    PackError,
    ReadError,
    TraceError,
)

if TYPE_CHECKING:
    from adapmoe.generation.params import SamplingParams
    from adapmoe.generation.request import GenerationChunk, GenerationResult
    from adapmoe.generation.sampling import TokenLogprobs
    from adapmoe.generation.sequence import Sequence
    from adapmoe.generation.stream import AsyncGenerationStream, GenerationStream
    from adapmoe.llm import LLM

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AdapmoeError",
    "AsyncGenerationStream",
    "BackendUnavailableError",
    "BudgetError",
    "CalibrationError",
    "CancelledError",
    "ChatTemplateError",
    "CheckpointError",
    "ClosedError",
    "ContextOverflowError",
    "ForkError",
    "GenerationChunk",
    "GenerationResult",
    "GenerationStream",
    "NonFiniteError",
    "PackError",
    "ReadError",
    "SamplingParams",
    "Sequence",
    "TokenLogprobs",
    "TraceError",
    "__version__",
]

# Imported when they are used, so that `adapmoe --help` does not wait for NumPy and tokenizers.
_MODULES = {
    "LLM": "llm",
    "AsyncGenerationStream": "generation.stream",
    "GenerationChunk": "generation.request",
    "GenerationResult": "generation.request",
    "GenerationStream": "generation.stream",
    "SamplingParams": "generation.params",
    "Sequence": "generation.sequence",
    "TokenLogprobs": "generation.sampling",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
