# SPDX-License-Identifier: Apache-2.0
"""The exceptions for expected failures; the compiled core raises the same classes."""


class AdapmoeError(Exception):
    """Base of all; the message says what failed, what was expected and what to do."""


class PackError(AdapmoeError):
    """The pack is missing, incomplete, damaged or of an unknown version."""


class CalibrationError(AdapmoeError):
    """There is no calibration, it belongs to another pack, or it cannot be made."""


class CheckpointError(AdapmoeError):
    """The Hugging Face checkpoint cannot be exported."""


class BudgetError(AdapmoeError):
    """`memory` is below the floor of this model, or not available on this machine."""


class ReadError(AdapmoeError, OSError):
    """The disk failed, or a file of the pack changed while it was open."""


class BackendUnavailableError(AdapmoeError):
    """The backend, instruction set or feature asked for does not exist on this machine."""


class EngineError(AdapmoeError):
    """An ONNX model or a TensorRT engine is missing, damaged, made for something else, or cannot
    be built.
    """


class ContextOverflowError(AdapmoeError, ValueError):
    """Prompt and answer together need more tokens than `max_context`."""


class NonFiniteError(AdapmoeError):
    """The model computed NaN or infinity; the message says in which part of which layer."""


class CancelledError(AdapmoeError):
    """The step was interrupted by the caller before it was complete."""


class ClosedError(AdapmoeError):
    """The model or the sequence has been closed, perhaps by another thread while it was used."""


class ForkError(AdapmoeError):
    """The model was opened in a process of which this one is a fork, and cannot be used here."""


class ChatTemplateError(AdapmoeError):
    """There is no chat template, or it refuses the messages or does what it may not."""


class TraceError(AdapmoeError):
    """A file of recorded routing is missing, damaged, of an unknown version, or not writable."""
