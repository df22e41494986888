# SPDX-License-Identifier: Apache-2.0
"""What `/metrics` tells Prometheus. Names and units as Prometheus recommends them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapmoe.errors import ClosedError
from adapmoe.generation.stats import GenerationStats
from adapmoe.llm import LLM
from adapmoe.machine.power import Span
from adapmoe.serve.neighbour import NeighbourFacts

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_OWN = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25)
_POWER_S = 1.0  # over which power is averaged; meters are read less often than steps are made
_PARTS = ("dense", "kv", "scratch", "expert")  # of the memory split


@dataclass
class Counts:
    """What `Metrics` has counted, for those who ask often. Written by the engine's thread alone.

    Attributes:
        generated: tokens.
        steps: of the model.
        joules: of the machine during steps, where they are measured.
        measured_s: the time of those steps.
        running: choices with a slot.
        waiting: choices without one.
    """

    generated: int = 0
    steps: int = 0
    joules: float = 0.0
    measured_s: float = 0.0
    running: int = 0
    waiting: int = 0


class Metrics:
    """Counts what the engine does; what the core counts is asked when Prometheus asks."""

    def __init__(self, llm: LLM) -> None:
        """`llm`: the open model."""
        self.counts = Counts()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_CoreCollector(llm))

        def counter(name: str, what: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(f"adapmoe_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"adapmoe_{name}", what, buckets=buckets, registry=registry)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"adapmoe_{name}", what, registry=registry)

        self._ended = counter("choices", "Choices that ended, by how.", ["outcome"])
        self._refused = counter("refused", "Requests refused because the queue was full.")
        self._preempted = counter("preemptions", "Choices put back for want of memory.")
        self._prompt_tokens = counter("prompt_tokens", "Tokens of the prompts of ended choices.")
        self._cached_tokens = counter("cached_prompt_tokens", "Those of them not computed again.")
        self._generated = counter("generated_tokens", "Tokens generated.")
        self._first = histogram("time_to_first_token_seconds", "From request to token.", _LONG)
        self._between = histogram("time_between_tokens_seconds", "Between two tokens.", _SHORT)
        self._request = histogram("choice_seconds", "From request to last token.", _LONG)
        self._step = histogram("step_seconds", "One step of the model.", _SHORT)
        self._own = histogram("own_seconds", "Between two steps: sampling, text, clients.", _OWN)
        self._joules: Counter | None = None
        self._watts: Gauge | None = None
        if llm.power.source is not None:
            measured = f"of the machine during steps, by {llm.power.source}."
            self._joules = counter("energy_joules", f"Energy {measured}")
            self._watts = gauge("power_watts", f"Power {measured}")
        self._power = (0.0, 0.0)  # joules and seconds since the gauge was set
        self._waiting = gauge("choices_waiting", "Choices without a slot.")
        self._running = gauge("choices_running", "Choices with a slot.")
        self._prefixes = gauge("prefixes_kept", "Sequences kept for prompts that begin like them.")

    def watch_memory(self, facts: Callable[[], NeighbourFacts | None]) -> None:
        """Tell `facts`, too, while they are not None."""
        self.registry.register(_MemoryCollector(facts))

    def state(self, waiting: int, running: int, prefixes: int) -> None:
        """How many choices wait and run, and how many sequences are kept."""
        self.counts.running, self.counts.waiting = running, waiting
        self._waiting.set(waiting)
        self._running.set(running)
        self._prefixes.set(prefixes)

    def step(self, core_s: float, span: Span) -> None:
        """One step took the core `core_s`; `span` measured its energy."""
        self.counts.steps += 1
        self._step.observe(core_s)
        if self._joules is None or self._watts is None or span.joules is None:
            return
        self.counts.joules += span.joules
        self.counts.measured_s += span.seconds
        self._joules.inc(span.joules)
        joules, seconds = self._power[0] + span.joules, self._power[1] + span.seconds
        self._power = (joules, seconds)
        if seconds >= _POWER_S:
            self._watts.set(joules / seconds)
            self._power = (0.0, 0.0)

    def own_time(self, seconds: float) -> None:
        """Between the end of a step and that of the next, the core did nothing for so long."""
        self._own.observe(seconds)

    def first_token(self, seconds: float) -> None:
        """The first token of a choice came so long after its request."""
        self.counts.generated += 1
        self._generated.inc()
        self._first.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """Another token came so long after the one before."""
        self.counts.generated += 1
        self._generated.inc()
        self._between.observe(seconds)

    def finished(
        self, reason: str, seconds: float, prompt_tokens: int, stats: GenerationStats
    ) -> None:
        """A choice is complete, so long after its request."""
        self._ended.labels(reason).inc()
        self._request.observe(seconds)
        self._prompt_tokens.inc(prompt_tokens)
        self._cached_tokens.inc(stats.cached_tokens)

    def failed(self, outcome: str) -> None:
        """A choice ended early: the name of the error, or "cancelled"."""
        self._ended.labels(outcome).inc()

    def refused(self) -> None:
        """A request found the queue full."""
        self._refused.inc()

    def preempted(self) -> None:
        """A choice was put back because memory ran out."""
        self._preempted.inc()


class _CoreCollector(Collector):
    """The core's own counts and the memory split."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def collect(self) -> Iterator[Metric]:
        try:
            total, split = self._llm.stats, self._llm.memory_split
        except ClosedError:
            return
        counts = {
            "expert_visits": ("Experts that steps needed.", total.experts_used),
            "expert_hits": ("Those of them that were resident.", total.expert_hits),
            "expert_activations": ("Experts that tokens chose.", total.experts_activated),
            "gated": ("Experts left out by the gate, one per token and layer.", total.gated),
            "read_bytes": ("Bytes of experts read by steps.", total.bytes_read),
            "stall_seconds": ("Time that steps waited for experts.", total.stall_s),
            "compute_seconds": ("The other time of steps.", total.compute_s),
        }
        for name, (what, value) in counts.items():
            yield CounterMetricFamily(f"adapmoe_{name}", what, value=value)
        memory = GaugeMetricFamily(
            "adapmoe_memory_bytes", "What the ceiling is spent on.", labels=["part"]
        )
        for part in _PARTS:
            memory.add_metric([part], getattr(split, f"{part}_bytes"))
        yield memory
        yield GaugeMetricFamily(
            "adapmoe_memory_ceiling_bytes", "The ceiling.", value=split.memory_bytes
        )
        tiles = GaugeMetricFamily("adapmoe_frames", "Tiles of experts.", labels=["which"])
        tiles.add_metric(["at_most_resident"], split.frames)
        tiles.add_metric(["of_the_model"], split.frames_total)
        yield tiles


class _MemoryCollector(Collector):
    """The memory beside the server."""

    def __init__(self, facts: Callable[[], NeighbourFacts | None]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        facts = self._facts()
        if facts is None:
            return
        gauges = {
            "room_bytes": ("What this process could still take.", facts.room_bytes),
            "given_back_bytes": ("How far the ceiling was lowered.", facts.given_back_bytes),
            "pressure_ratio": ("Share of time that waits for memory.", facts.pressure),
        }
        for name, (what, value) in gauges.items():
            yield GaugeMetricFamily(f"adapmoe_memory_{name}", what, value=value)
