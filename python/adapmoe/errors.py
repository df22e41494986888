# SPDX-License-Identifier: Apache-2.0
"""The exceptions for expected failures. The compiled core raises the same classes."""


class AdapmoeError(Exception):
    """Base class; the message says what failed, what was expected and what to do."""


class PackError(AdapmoeError):
    """The pack is missing, incomplete, damaged or of an unknown version."""


class CalibrationError(AdapmoeError):
    """A calibration is missing, belongs to another pack, or cannot be made."""


class CheckpointError(AdapmoeError):
    """The Hugging Face checkpoint cannot be exported."""


class BudgetError(AdapmoeError):
    """`memory` is below the floor of this model, or not available on this machine."""


class ReadError(AdapmoeError, OSError):
    """The disk failed, or a file of the pack changed while it was open."""


class BackendUnavailableError(AdapmoeError):
    """This machine does not have the requested backend, instruction set or feature."""


class EngineError(AdapmoeError):
    """An ONNX model or TensorRT engine is missing, damaged, unsuitable, or cannot be built."""


class ContextOverflowError(AdapmoeError, ValueError):
    """Prompt and answer together need more tokens than `max_context`."""


class NonFiniteError(AdapmoeError):
    """The model computed NaN or infinity; the message says in which part of which layer."""


class CancelledError(AdapmoeError):
    """The step was interrupted by the caller before it was complete."""


class ClosedError(AdapmoeError):
    """The model or the sequence has been closed, perhaps by another thread while it was used."""


class ForkError(AdapmoeError):
    """This process is a fork of the one that opened the model, and cannot use it."""


class ChatTemplateError(AdapmoeError):
    """There is no chat template, or it refuses the messages or does something forbidden."""


class TraceError(AdapmoeError):
    """A file of recorded routing is missing, damaged, of an unknown version, or not writable."""
