# SPDX-License-Identifier: Apache-2.0
"""A whole benchmark: settings in, medians and bounds out."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from adapmoe import _core
from adapmoe.bench.profile import PhaseProfile, profile
from adapmoe.bench.rounds import Measurement, Round, open_variant, run_rounds
from adapmoe.bench.workload import BASE, Workload, ablation_of, fit_sizes, make_workload
from adapmoe.machine.bandwidth import measure_memory
from adapmoe.opening.read_settings import ReadSettings, settle
from adapmoe.pack.calibration import FILE, read_calibration
from adapmoe.pack.manifest import Manifest
from adapmoe.settings import Settings
from adapmoe.text.sample_text import SAMPLE_TEXT
from adapmoe.text.tokenizer import Tokenizer
from adapmoe.tracing.timeline import write_chrome_trace


@dataclass(frozen=True)
class Spread:
    """Of the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """`values` has at least one."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        """Three digits: median (least - most)."""
        return f"{self.median:.3g} ({self.least:.3g} - {self.most:.3g})"


@dataclass(frozen=True)
class VariantSummary:
    """One variant over all rounds.

    Attributes:
        measured: every field of Measurement by name, without those that a round lacks.
        fraction_of_bound: see Round.
        speedup: over the base, paired by round.
    """

    measured: dict[str, Spread]
    fraction_of_bound: Spread
    speedup: Spread

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        every = self.measured | {
            "fraction_of_bound": self.fraction_of_bound,
            "speedup": self.speedup,
        }
        return {name: vars(spread) for name, spread in every.items()}


def summarize(rounds: Sequence[Round]) -> dict[str, VariantSummary]:
    """{variant: summary}, in the order of the first round."""
    return {name: _variant(rounds, name) for name in rounds[0].runs}


def summarize_bound(rounds: Sequence[Round]) -> dict[str, Spread]:
    """Seconds of computing per token, and bytes per second of the disk."""
    return {
        name: Spread.of([getattr(one.bound, name) for one in rounds])
        for name in ("compute_s_per_token", "disk_bytes_per_s")
    }


def _variant(rounds: Sequence[Round], name: str) -> VariantSummary:
    columns = {
        field.name: [getattr(one.runs[name], field.name) for one in rounds]
        for field in fields(Measurement)
    }
    measured = {name: Spread.of(column) for name, column in columns.items() if None not in column}
    return VariantSummary(
        measured,
        Spread.of([one.fraction_of_bound(name) for one in rounds]),
        Spread.of([one.speedup(name) for one in rounds]),
    )


@dataclass(frozen=True)
class BenchResult:
    """What `adapmoe bench` prints.

    Attributes:
        settings: of the base; reading: where those of reading come from.
        memory_bytes_per_s: read by all cores together.
        all_resident, direct: see Bound.
        bound: seconds of computing per token, bytes per second of the disk.
        variants: {name: summary}, the base first.
    """

    pack: str
    settings: Settings
    reading: ReadSettings
    workload: Workload
    repeat: int
    memory_bytes_per_s: float
    all_resident: bool
    direct: bool
    bound: dict[str, Spread]
    variants: dict[str, VariantSummary]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        plain = {"pack": self.pack, "settings": vars(self.settings), "repeat": self.repeat}
        bound: dict[str, Any] = {name: vars(spread) for name, spread in self.bound.items()}
        bound |= {
            "all_resident": self.all_resident,
            "direct": self.direct,
            "memory_bytes_per_s": self.memory_bytes_per_s,
        }
        variants = {name: summary.as_dict() for name, summary in self.variants.items()}
        return {
            **plain,
            "reading": self.reading.as_dict(),
            "workload": self.workload.as_dict(),
            "bound": bound,
            "variants": variants,
        }


class Bench:
    """One pack, one workload."""

    def __init__(
        self,
        pack: Path,
        settings: Settings,
        text: str | None,
        prompt_tokens: int | None,
        warm_up: int | None,
        tokens: int | None,
    ) -> None:
        """Check the pack and cut the text, or a text of the package, into tokens.

        Sizes that are None are the defaults, or less for a model with a short context.
        Where `read_depth` and `request_bytes` are None and the disk was never probed, it is now.

        Raises:
            PackError: not a pack, or it has no tokenizer.
            CalibrationError: the pack has the calibration of another one.
            ReadError: the experts cannot be read.
            ValueError: sizes that make no workload.
        """
        manifest = Manifest.read(pack)
        self._pack = pack
        self._experts = manifest.experts
        found = settle(
            pack, self._experts, settings.reader, settings.read_depth, settings.request_bytes
        )
        self._reading = replace(found, register_buffers=settings.register_buffers)
        self._settings = replace(
            settings,
            threads=settings.threads or _core.usable_cpus(),
            read_depth=found.read_depth,
            request_bytes=found.request_bytes,
        )
        self._calibrated = (pack / FILE).exists() and bool(read_calibration(pack))
        ids = Tokenizer.from_pack(pack).encode(SAMPLE_TEXT if text is None else text)
        prompt, warm, decode = fit_sizes(
            manifest.config.max_position_embeddings, prompt_tokens, warm_up, tokens
        )
        self._workload = make_workload(
            ids, manifest.config.vocab_size, prompt_tokens=prompt, warm_up=warm, tokens=decode
        )

    def run(
        self,
        repeat: int,
        *,
        ablation: bool,
        on_run: Callable[[str, int, int], None] = lambda name, number, total: None,
    ) -> BenchResult:
        """Measure the base, and with `ablation` everything else, in `repeat` rounds.

        `on_run` is told the name of each run, its number and how many there are. Raises what
        opening and decoding raise.
        """
        variants = {BASE: self._settings}
        if ablation:
            variants = ablation_of(self._settings, calibrated=self._calibrated)
        total, number = repeat * (len(variants) + 2), 0

        def count(name: str) -> None:
            nonlocal number
            number += 1
            on_run(name, number, total)

        memory = measure_memory(threads=self._settings.threads or 1)
        rounds = run_rounds(
            self._pack, self._experts, variants, self._workload, repeat=repeat, on_run=count
        )
        return self._result(rounds, memory)

    def _result(self, rounds: list[Round], memory: float) -> BenchResult:
        return BenchResult(
            pack=str(self._pack),
            settings=self._settings,
            reading=self._reading,
            workload=self._workload,
            repeat=len(rounds),
            memory_bytes_per_s=memory,
            all_resident=all(one.bound.all_resident for one in rounds),
            direct=all(one.bound.direct for one in rounds),
            bound=summarize_bound(rounds),
            variants=summarize(rounds),
        )

    def profile(self) -> dict[str, PhaseProfile]:
        """Run the base once more, its time taken part by part; see `profiled_run`."""
        with open_variant(self._pack, self._settings, self._workload, timeline=True) as llm:
            return profile(llm, self._workload)

    def write_timeline(self, path: Path) -> None:
        """Run the base once more and write who was busy when. Raises OSError."""
        with open_variant(self._pack, self._settings, self._workload, timeline=True) as llm:
            with llm.new_sequence() as sequence:
                sequence.prefill(self._workload.prompt)
                for token in (*self._workload.warm_up, *self._workload.decode):
                    sequence.decode(int(token))
            write_chrome_trace(path, llm.timeline())
