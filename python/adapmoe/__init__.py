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
    NonFiniteError,
    PackError,
    ReadError,
    TraceError,
)
from adapmoe.generate import GenerationStream
from adapmoe.generate_async import AsyncGenerationStream
from adapmoe.generation import GenerationChunk, GenerationResult
from adapmoe.llm import LLM
from adapmoe.logprobs import TokenLogprobs
from adapmoe.sampling_params import SamplingParams
from adapmoe.sequence import Sequence

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
