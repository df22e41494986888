# SPDX-License-Identifier: Apache-2.0
"""Run Mixture-of-Experts language models that do not fit in memory."""

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
