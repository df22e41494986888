# SPDX-License-Identifier: Apache-2.0
"""The class that users open a pack with."""

import logging
import os
import sys
from collections.abc import Sequence as ItemSequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapmoe.generation.params import SamplingParams
from adapmoe.generation.scheduler import StepLoop
from adapmoe.generation.stats import describe_split
from adapmoe.machine.cuda import load_packaged_tensorrt
from adapmoe.opening.expert_path import choose_expert_path, device_probe
from adapmoe.opening.gating import allocate, check_allocation, choose_first_layer, choose_gating
from adapmoe.opening.read_settings import read_settings
from adapmoe.opening.warm_restart import WarmRestart
from adapmoe.pack.manifest import check_small_files
from adapmoe.text.tokenizer import Tokenizer
from adapmoe.text_level import Prompts, TextLevel
from adapmoe.units import parse_memory

if TYPE_CHECKING:
    from adapmoe import _core

_log = logging.getLogger("adapmoe")


def _open_session(path: str, **options: Any) -> "_core.Session":
    from adapmoe._core import Session, inspect_pack

    check_small_files(Path(path), inspect_pack(path))
    if options["arithmetic"] == "tensorrt":
        load_packaged_tensorrt()
    return Session(path, **options)


class LLM(TextLevel):
    """A Mixture-of-Experts model, opened from a pack, its experts streamed under a memory ceiling.

    Example:
        with adapmoe.LLM("mixtral.adapmoe", memory="12GiB") as llm:
            print(llm.generate("The first law of robotics").text)

    Threads: all methods may be called from any thread at any time. The core computes one step at a
    time, so calls of several threads take turns; what each gets is what it would get alone, bit by
    bit. A call waits only for the steps before it, not for whole generations, with one exception:
    `generate` and `chat` (streams and the asynchronous ones too) need one of `max_sequences` places
    and wait while all are held by generations of other threads or tasks. Where that wait might
    never end, they raise AdapmoeError: all places are held by sequences opened by hand, or this
    thread or task holds one itself by a stream that it has not finished. `new_sequence` and `fork`
    never wait. One `Sequence` or stream is meant for one thread at a time. `close` lets the running
    step end; then every other use, in whatever thread, raises ClosedError.

    Processes: a fork of the process that opened a model cannot use it and gets ForkError; open the
    pack in the child, or start children with the spawn method. While Python exits, what runs in
    other threads is interrupted and ends like by `sys.exit()`.

    Args:
        path: the pack, a directory that `adapmoe export` wrote.
        memory: ceiling for weights, KV cache, scratch and experts: bytes, "12GiB", or "auto"
            (80 % of what this process may still take). On a GPU with memory of its own, of that.
        threads: compute threads; None: one per core that the process may use (affinity and CPU
            quota).
        gating: "off" is exact; "sensitivity" leaves out experts that hardly matter, within the
            quality that `adapmoe calibrate` was given; "residency" only those that would have to
            be read, so results depend on what is resident.
        expert_fraction: instead of `memory`: as much as keeps this share (0 to 1) of all
            experts resident; 0: off.
        max_context: most tokens per sequence; 0: what the model was trained for, at most 4096.
        max_sequences: sequences open at the same time; each reserves a KV cache of max_context.
        kv_dtype: "f16" or "f32".
        kernels: "auto", "scalar", "avx2" or "avx512"; all give the same bits.
        backend: "auto", "cpu" or "cuda".
        experts: how int4 and int8 experts meet activations: "w4a8" gives the same bits everywhere;
            "w4a16", on a GPU, keeps activations as floats and is nearer to the exact product, so it
            needs `exact=False`. "tensorrt", with `backend="cuda"`, runs each expert by the engine
            that `adapmoe build-engines` made on this device, with fp16 activations; it needs
            `exact=False`, too. "auto" is "w4a8", or with `exact=False` what is fastest here,
            measured once and kept in `~/.cache/adapmoe` or `$XDG_CACHE_HOME/adapmoe`.
        exact: permit only what gives the bits of the CPU.
        policy: which expert to evict: "next-use", "farthest-layer", "lru", "lfru" or "least-stale".
        evict: give up experts by the "tile" or by the whole "expert".
        allocation: "global": all layers share the memory; "uniform": each keeps the same number
            of experts if it can; "dp": as many as calibration found best.
        prefetch: layers to look ahead and read for at most, 0 (off) to 3; never changes a result.
        prefetch_trials: try now and then whether fewer layers, or none, make decode steps shorter,
            and use what does; False: always look `prefetch` layers ahead.
        first_layer: what foresees layer 0 where prefetch is on: the token's "embedding", the last
            "hidden" state before it (of calibrated packs), "both" in turn, or "none".
        verify: check the CRC of tiles: "always", the "first" time they are read, or "never".
        gating_threshold: T of the gating rule; 0 never leaves anything out; None: calibration's.
        sensitivity: s_i of the rule, one per layer; empty: calibration's.
        prefill_chunk: most prompt tokens per step.
        reader: "io_uring" or "pread" (threads), or "auto": io_uring where it may be used. All give
            the same bits; `LLM.reader` is the one in use.
        readers: reads at the same time; None: what `adapmoe plan`, `bench` or `doctor` found best
            on this disk, 4 before that. `LLM.reading` says what is in use, and why.
        request_bytes: of one read at most, a multiple of 4096; 0: a whole tile of an expert; None:
            as for `readers`.
        register_buffers: with io_uring, pin the memory that tiles are read into when it is first
            used, as far as RLIMIT_MEMLOCK allows, and register it and the file with the kernel.
            `set_memory` still gives memory back. `LLM.registration` says what is registered.
        direct_io: bypass the page cache where the file system allows it.
        warm_restart: read the experts that were resident at the last close in the background, and
            remember them at this close, in `~/.cache/adapmoe` or `$XDG_CACHE_HOME/adapmoe`.
        timeline: record who was busy when, for `timeline()`.
        verbose: print the memory split to stderr.

    Attributes:
        reading: how many reads at the same time, of what size, and where that comes from: "given",
            "probed" or "default".

    Raises:
        PackError: not a pack, damaged, or of an unknown version.
        BudgetError: `memory` is below the floor; the message has the bytes needed.
        CalibrationError: a setting needs a calibration, and the pack has none or another pack's.
        BackendUnavailableError: backend or kernels that this machine lacks.
        EngineError: with `experts="tensorrt"`: an engine is missing, damaged or of something else.
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        memory: int | str = "auto",
        threads: int | None = None,
        gating: str = "off",
        *,
        expert_fraction: float = 0.0,
        max_context: int = 0,
        max_sequences: int = 1,
        kv_dtype: str = "f16",
        kernels: str = "auto",
        backend: str = "auto",
        experts: str = "auto",
        exact: bool = True,
        policy: str = "next-use",
        evict: str = "tile",
        allocation: str = "global",
        prefetch: int = 1,
        prefetch_trials: bool = True,
        first_layer: str = "embedding",
        verify: str = "always",
        gating_threshold: float | None = None,
        sensitivity: ItemSequence[float] = (),
        prefill_chunk: int = 128,
        reader: str = "auto",
        readers: int | None = None,
        request_bytes: int | None = None,
        register_buffers: bool = False,
        direct_io: bool = True,
        warm_restart: bool = True,
        timeline: bool = False,
        verbose: bool = False,
    ) -> None:
        """Open a pack and reserve all memory that it will use; see the class for the arguments."""
        _check_memory(memory, expert_fraction)
        pack = Path(path)
        gate = choose_gating(pack, gating, gating_threshold, sensitivity)
        check_allocation(pack, allocation)
        self.reading = read_settings(pack, reader, readers, request_bytes, register_buffers)
        session = _open_session(
            str(path),
            memory=parse_memory(memory),
            experts_resident=expert_fraction,
            threads=threads or 0,
            max_context=max_context,
            max_sequences=max_sequences,
            kv_dtype=kv_dtype,
            prefill_chunk=prefill_chunk,
            kernels=kernels,
            **_choose_experts(pack, backend, experts, exact=exact),
            exact=exact,
            policy=policy,
            evict=evict,
            prefetch=prefetch,
            prefetch_trials=prefetch_trials,
            **self.reading.core_settings(),
            direct_io=direct_io,
            verify=verify,
            timeline=timeline,
            **gate.options,
            **choose_first_layer(pack, prefetch, first_layer).options,
        )
        # The tokenizer's files were checked while opening.
        super().__init__(path, session, prefill_chunk, _read_tokenizer(pack))
        self._allocation, self._gating = allocation, gating
        self._allocate()
        self._warm_restart = WarmRestart.of(self._path, session) if warm_restart else None
        self._say_what_was_opened(verbose)

    def set_memory(self, memory: int | str) -> "_core.MemorySplit":
        """Change the memory ceiling while the model is open; see `StepLevel.set_memory`."""
        split = super().set_memory(memory)
        self._allocate()
        return split

    def _allocate(self) -> None:
        """Give each layer its floor in the memory that there is now."""
        if self._allocation != "global":
            self._session.set_layer_floors(allocate(self, self._allocation, self._gating))

    def _say_what_was_opened(self, verbose: bool) -> None:
        self._notes_told = 0
        self._tell_notes(self._session)
        for note in () if self._tokenizer is None else self._tokenizer.notes:
            _log.warning("%s", note)
        if verbose:
            print(f"{self._path}: {self.backend}", file=sys.stderr)
            print(describe_split(self.memory_split), file=sys.stderr)

    def _prepare(
        self, prompt: Prompts, params: SamplingParams | None, *, answers: bool = False
    ) -> tuple[bool, StepLoop]:
        self._tell_notes(self._session)  # what came up since; a service may never close
        return super()._prepare(prompt, params, answers=answers)

    def _tell_notes(self, core: "_core.Session") -> None:
        """Those that have not been told: most come up at open, a few while running."""
        notes = core.notes
        for note in notes[self._notes_told :]:
            _log.warning("%s", note)
        self._notes_told = len(notes)

    def close(self) -> None:
        """Close all sequences and give all memory back, after a step that is running.

        A generation in another thread ends with ClosedError. Closing twice is harmless. In a fork
        of the process that opened it, nothing is done.
        """
        if self._opened_in.forked:
            return
        core = self._core
        if core is not None:
            self._tell_notes(core)
            if self._warm_restart is not None:
                self._warm_restart.save(core)
        super().close()


def _check_memory(memory: int | str, expert_fraction: float) -> None:
    if expert_fraction and memory != "auto":
        raise ValueError("give either memory or expert_fraction, not both")
    if not 0 <= expert_fraction <= 1:
        raise ValueError(f"expert_fraction must be from 0 to 1, not {expert_fraction!r}")


def _choose_experts(pack: Path, backend: str, experts: str, *, exact: bool) -> dict[str, str]:
    """What the core is given for these two; says what was measured."""
    choice = choose_expert_path(experts, exact=exact, probe=device_probe(pack, backend))
    if choice.note:
        _log.warning("%s", choice.note)
    return {"backend": choice.backend(backend), "arithmetic": choice.path}


def _read_tokenizer(pack: Path) -> Tokenizer | None:
    """A pack without a tokenizer still runs on token ids."""
    return Tokenizer.from_pack(pack) if (pack / "tokenizer.json").exists() else None
