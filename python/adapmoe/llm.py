# SPDX-License-Identifier: Apache-2.0
"""The class that users open a pack with."""

import functools
import logging
import sys
from collections.abc import Sequence as ItemSequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from adapmoe import checks
from adapmoe.core_types import Registration, Span
from adapmoe.errors import PackError
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.request import GenerationResult
from adapmoe.generation.scheduler import Batch, Scheduler
from adapmoe.generation.sequence import Sequence, StepItem, TokenIds, encode_prompts, is_one_prompt
from adapmoe.generation.stats import describe_split
from adapmoe.generation.stream import AsyncGenerationStream, GenerationStream
from adapmoe.machine.power import PowerMeter
from adapmoe.machine.process import NotCopied
from adapmoe.opening.allocation import allocate, read_layer_facts
from adapmoe.opening.core_options import core_options, open_core_session
from adapmoe.opening.warm_restart import WarmRestart
from adapmoe.pack.manifest import Manifest, PackGeometry
from adapmoe.settings import PathLike, Settings, describe, takes_settings
from adapmoe.text.chat_template import ChatTemplates, Message
from adapmoe.text.tokenizer import Tokenizer
from adapmoe.tracing.trace import Trace, recording
from adapmoe.units import parse_memory

if TYPE_CHECKING:
    from adapmoe import _core

_log = logging.getLogger("adapmoe")

Prompts = str | TokenIds | list[str] | list[list[int]]
Opened = TypeVar("Opened", bound="LLM")


class LLM(NotCopied):
    """A Mixture-of-Experts model, opened from a pack, its experts streamed under a memory ceiling.

    Example:
        with adapmoe.LLM("mixtral.adapmoe", memory="12GiB") as llm:
            print(llm.generate("The first law of robotics").text)

    Threads: any thread may call any method at any time. The core computes one step at a time, so
    threads take turns, and each gets the bits it would get alone. A call waits only for the steps
    before it, not for whole generations, with one exception: `generate` and `chat` (streams and
    the asynchronous ones too) need one of `max_sequences` slots, and wait while generations of
    other threads or tasks hold them all. Where that wait might never end, they raise AdapmoeError:
    sequences opened by hand hold all slots, or this thread or task holds one itself through a
    stream that it has not finished. `new_sequence` and `fork` never wait. Use one `Sequence` or
    stream in one thread at a time. `close` lets the running step end; after that every use, in any
    thread, raises ClosedError.

    Processes: a fork of the process that opened a model cannot use it and gets ForkError; open the
    pack in the child, or start children with the spawn method. While Python exits, what runs in
    other threads is interrupted and ends as by `sys.exit()`.

    Args:
        path: the pack, a directory that `adapmoe export` wrote.
        settings: each by its name, listed below with its default.

    Attributes:
        reading: how many reads at the same time, of what size, and where that comes from.
        scheduler: runs the steps; for programs, such as the server, that drive requests themselves.
        settings: what it was opened with.

    Raises:
        PackError: not a pack, damaged, or of an unknown version.
        BudgetError: `memory` is below the floor; the message has the bytes needed.
        CalibrationError: a setting needs a calibration, and the pack has none or another pack's.
        BackendUnavailableError: backend or kernels that this machine lacks.
        EngineError: with `arithmetic="tensorrt"`: an engine is missing, damaged or of another pack.
        TypeError, ValueError: a setting of a wrong type, or out of its range.

    Settings:
    """

    @takes_settings(Settings)
    def __init__(self, path: PathLike, settings: Settings) -> None:
        """Open a pack and reserve all memory that it will use; see the class for the arguments."""
        pack = Path(path)
        self.settings = settings
        options, self.reading = core_options(pack, settings)
        session = open_core_session(str(path), **options)
        self._path = pack
        # Kept, like the manifest: memory may change while the pack is out of reach.
        self._layer_facts = read_layer_facts(pack, settings)
        self.scheduler = Scheduler(session, pack, settings.prefill_chunk)
        # Its files were checked while opening. Without one, token ids still run.
        has_tokenizer = (pack / "tokenizer.json").exists()
        self._tokenizer = Tokenizer.from_pack(pack) if has_tokenizer else None
        self._templates: ChatTemplates | None = None
        self._notes_told = 0
        self._allocate()
        self._warm_restart = WarmRestart.of(pack, session) if settings.warm_restart else None
        self.log_notes()
        for note in () if self._tokenizer is None else self._tokenizer.notes:
            _log.warning("%s", note)
        if settings.verbose:
            print(f"{pack}: {self.backend}", file=sys.stderr)
            print(describe_split(self.memory_split), file=sys.stderr)

    @overload
    def generate(
        self,
        prompt: str | TokenIds,
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        **overrides: Any,
    ) -> GenerationResult: ...
    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        stream: Literal[False] = False,
        **overrides: Any,
    ) -> list[GenerationResult]: ...
    @overload
    def generate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        *,
        stream: Literal[True],
        **overrides: Any,
    ) -> GenerationStream: ...
    def generate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        *,
        stream: bool = False,
        **overrides: Any,
    ) -> GenerationResult | list[GenerationResult] | GenerationStream:
        """Continue one prompt or several.

        Args:
            prompt: text, token ids, or a list of either. Text gets the begin-of-sequence token.
            params: how to sample; None: greedy, up to 256 tokens.
            stream: return an iterator of chunks instead of waiting for the end.
            overrides: fields of `SamplingParams` by name, such as `max_tokens=64`; they replace
                those of `params`.

        Returns:
            One result for one prompt, a list in the same order for a list, or a `GenerationStream`.

        Raises:
            ContextOverflowError: a prompt and its answer do not fit into max_context; no step has
                run.
            PackError: the pack has no tokenizer.
            ReadError: an expert could not be read.
            TypeError, ValueError: a field of the parameters is wrong, or token ids are not in the
                vocabulary.
        """
        checks.flag("stream", stream)
        chunks = GenerationStream(self._submit(prompt, SamplingParams.of(params, **overrides)))
        if stream:
            return chunks
        results = chunks.run()
        return results[0] if is_one_prompt(prompt) else results

    def generate_async(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        **overrides: Any,
    ) -> AsyncGenerationStream:
        """`generate` without blocking the event loop: `async for chunk in llm.generate_async(...)`.

        Returns:
            An asynchronous iterator of chunks; its `results` are complete once it has ended.

        What can be checked before any work is raised at once, the rest while iterating.
        """
        return AsyncGenerationStream(self._submit(prompt, SamplingParams.of(params, **overrides)))

    @overload
    def chat(
        self,
        messages: ItemSequence[Message],
        params: SamplingParams | None = None,
        *,
        chat_template: str | None = None,
        stream: Literal[False] = False,
        **overrides: Any,
    ) -> GenerationResult: ...
    @overload
    def chat(
        self,
        messages: ItemSequence[Message],
        params: SamplingParams | None = None,
        *,
        chat_template: str | None = None,
        stream: Literal[True],
        **overrides: Any,
    ) -> GenerationStream: ...
    def chat(
        self,
        messages: ItemSequence[Message],
        params: SamplingParams | None = None,
        *,
        chat_template: str | None = None,
        stream: bool = False,
        **overrides: Any,
    ) -> GenerationResult | GenerationStream:
        """Answer a conversation, put into text by the model's chat template, as `generate` does.

        Args:
            messages: `{"role": "user", "content": "..."}` and so on, oldest first; the template
                decides which roles there are, and in what order.
            params, stream, overrides: as for `generate`.
            chat_template: a Jinja template instead of the pack's, or the name of one of the pack's.

        Raises:
            ChatTemplateError: there is no template, or it refuses these messages.
            TypeError, ValueError: `messages` are not messages, or as `generate`.
            ContextOverflowError, PackError, ReadError: as `generate`; overflow before any work.
        """
        checks.flag("stream", stream)
        chunks = GenerationStream(self._submit_chat(messages, chat_template, params, overrides))
        return chunks if stream else chunks.run()[0]

    def chat_async(
        self,
        messages: ItemSequence[Message],
        params: SamplingParams | None = None,
        *,
        chat_template: str | None = None,
        **overrides: Any,
    ) -> AsyncGenerationStream:
        """`chat` without blocking the event loop; see `generate_async`."""
        return AsyncGenerationStream(self._submit_chat(messages, chat_template, params, overrides))

    def chat_prompt(
        self, messages: ItemSequence[Message], *, chat_template: str | None = None
    ) -> list[int]:
        """Token ids of the prompt that `chat` would continue. Raises what `chat` raises."""
        text = self.chat_templates.render(messages, chat_template)
        return self.tokenizer.encode(text, add_bos=False)  # the template writes it if it wants it

    def _submit_chat(
        self,
        messages: ItemSequence[Message],
        chat_template: str | None,
        params: SamplingParams | None,
        overrides: dict[str, Any],
    ) -> Batch:
        prompt = self.chat_prompt(messages, chat_template=chat_template)
        return self._submit(prompt, SamplingParams.of(params, **overrides), answers=True)

    def _submit(self, prompt: Prompts, params: SamplingParams, *, answers: bool = False) -> Batch:
        self.log_notes()  # those since the last call; a service may never close
        encoded = encode_prompts(prompt, self.tokenizer, self.vocab_size)
        return self.scheduler.submit(encoded, params, self.tokenizer, answers=answers)

    @property
    def chat_templates(self) -> ChatTemplates:
        """The chat templates of the pack, perhaps none. Raises PackError if they are damaged."""
        if self._templates is None:
            self._templates = ChatTemplates.from_pack(self._path)
        return self._templates

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the pack. Raises PackError where there is none."""
        if self._tokenizer is None:
            raise PackError(
                f"{self._path / 'tokenizer.json'}: missing; use new_sequence with token ids"
            )
        return self._tokenizer

    def new_sequence(self) -> Sequence:
        """Begin a token stream to drive step by step.

        Raises:
            AdapmoeError: all `max_sequences` slots are taken.
            ClosedError: the model is closed.
        """
        return self.scheduler.new_sequence()

    def step(self, items: ItemSequence[StepItem]) -> list[NDArray[np.float32] | None]:
        """Append tokens to several sequences in one step: prompts, parts of prompts, single tokens.

        All rows pass through the layers together (at most max(`prefill_chunk`, `max_sequences`) at
        a time), so an expert is read once for all of them. Each sequence gets the bits that it
        would get alone. `Sequence.last_stats` then has its own tokens, activations and gating; the
        rest (reads, hits, time) is what the whole step did.

        Args:
            items: `(sequence, ids)` or `(sequence, ids, logits)`, every sequence at most once; ids
                are integers `[n]`, n >= 1; logits "last" (the default), "all" or "none" says of
                which of the new positions they are wanted.

        Returns:
            For each item float32 `[vocab_size]`, `[n, vocab_size]` or None.

        Raises:
            TypeError, ValueError: not such items, or a sequence stands there twice.
            ContextOverflowError, ReadError, NonFiniteError, ClosedError: as `Sequence.prefill`;
                then nothing was appended to any of them.
        """
        return self.scheduler.step(items)

    def decode_batch(self, items: ItemSequence[tuple[Sequence, int]]) -> NDArray[np.float32]:
        """Append one token to each of several sequences in one step.

        Args:
            items: (sequence, token id) pairs, every sequence at most once.

        Returns:
            float32 `[n, vocab_size]` in the order of `items`: what `Sequence.decode` would return.

        Raises:
            TypeError: not such pairs.
            ContextOverflowError, ReadError, NonFiniteError, ClosedError, ValueError: as
                `Sequence.decode`.
        """
        return self.scheduler.decode_batch(items)

    def set_memory(self, memory: int | str) -> "_core.MemorySplit":
        """Change the memory ceiling while the model is open.

        Less memory evicts experts and gives their memory back, between two layers of a step that
        runs. More lets more become resident, after a step that runs.
        Sequences keep their tokens, and results do not change. Returns the new split, in bytes.

        Args:
            memory: bytes or a size such as "8GiB"; "auto" is not one.

        Raises:
            BudgetError: below the floor of this model, or more than this process may take; the old
                ceiling stays.
            TypeError, ValueError: not a size.
        """
        size = parse_memory(memory)
        if size == 0:
            raise ValueError("set_memory needs a size such as '8GiB' or a number of bytes")
        split = self._session.set_memory(size)
        self._allocate()
        return split

    def _allocate(self) -> None:
        """Give each layer its floor in the memory that there is now."""
        if self.settings.allocation != "global":
            floors = allocate(
                self.settings.allocation, self.geometry, self.memory_split, self._layer_facts
            )
            self._session.set_layer_floors(floors)

    @property
    def memory_split(self) -> "_core.MemorySplit":
        """What the ceiling is spent on, in bytes."""
        return self._session.memory_split

    @functools.cached_property
    def _manifest(self) -> Manifest:
        return Manifest.read(self._path)

    @property
    def pins_memory(self) -> bool:
        """Whether a GPU holds all that was reserved, so that `set_memory` gives none back."""
        return self._session.pins_memory

    @property
    def geometry(self) -> PackGeometry:
        """The numbers of the pack and of the memory split that routing and planning work with."""
        return PackGeometry.of(self._manifest, self.memory_split)

    def record_trace(self, on: bool) -> None:
        """Record routing from the next step on, or stop and forget what was recorded."""
        self._session.record_trace(checks.flag("on", on))

    def trace(self) -> Trace:
        """The routing recorded since `record_trace(True)`."""
        return Trace(self.geometry, self._session.trace())

    def recording(self, path: Path | None) -> AbstractContextManager[None]:
        """Write the routing of what runs inside to `path`; None records nothing.

        Raises TraceError where there is no such folder, before anything runs, or writing fails.
        """
        return recording(self.record_trace, self.trace, path)

    def timeline(self) -> list[Span]:
        """Spans since a model with `timeline=True` was opened; see `adapmoe.tracing.timeline`."""
        return self._session.timeline()

    def expert_states(self) -> NDArray[np.uint8]:
        """What every expert is doing now; waits for no step.

        Returns:
            uint8 `[layers, experts]`, a sum of: 1 resident, 2 being read, 4 used by the latest pass
            over its layer, 8 left out by the gate in it.
        """
        return self._session.expert_states()

    @property
    def progress(self) -> int:
        """Grows with every read and every layer that is finished; waits for no step."""
        return self._session.progress

    @property
    def stats(self) -> "_core.StepStats":
        """Sums over all steps since the pack was opened."""
        return self._session.totals

    @property
    def notes(self) -> list[str]:
        """What the core had to say since it was opened, a line each; logged as warnings, too."""
        return self._session.notes

    @property
    def path(self) -> Path:
        """Where the pack is."""
        return self._path

    @property
    def vocab_size(self) -> int:
        """Length of a row of logits."""
        return self._session.vocab_size

    @property
    def max_context(self) -> int:
        """Most tokens in one sequence."""
        return self._session.max_context

    @property
    def max_sequences(self) -> int:
        """Most sequences open at the same time."""
        return self._session.max_sequences

    @property
    def free_sequences(self) -> int:
        """How many more sequences can be opened now."""
        return self.scheduler.slots.free

    @property
    def backend(self) -> str:
        """Backend and kernels in use, such as "cpu/avx2"."""
        return self._session.backend

    @property
    def reader(self) -> str:
        """What reads experts: "io_uring", or "pread" from a pool of threads."""
        return self._session.reader

    @property
    def registration(self) -> Registration:
        """What io_uring has registered."""
        return self._session.registration

    @property
    def power(self) -> PowerMeter:
        """Measures the machine's energy, as far as it can be measured."""
        return self.scheduler.power

    @property
    def _session(self) -> "_core.Session":
        return self.scheduler.session

    def log_notes(self) -> None:
        """Log those that have not been logged: most come up at open, a few while running."""
        notes = self.notes
        for note in notes[self._notes_told :]:
            _log.warning("%s", note)
        self._notes_told = len(notes)

    def close(self) -> None:
        """Close all sequences and give all memory back, after a step that is running.

        A generation in another thread ends with ClosedError. Closing twice is harmless. In a fork
        of the process that opened it, nothing is done.
        """
        if not self.scheduler.closed:
            self.log_notes()
            if self._warm_restart is not None:
                self._warm_restart.save(self._session)
        self.scheduler.close()

    def __enter__(self: Opened) -> Opened:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()


LLM.__doc__ = (LLM.__doc__ or "").rstrip() + "\n" + describe()
