# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs share, and opening a pack with them."""

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from adapmoe.llm import LLM

PackArgument = Annotated[
    Path,
    typer.Argument(metavar="PACK", help="The pack, a directory NAME.adapmoe.", show_default=False),
]
MemoryOption = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="Ceiling for weights, KV cache, scratch and experts: 12GiB, 2.5GB, auto.",
    ),
]
ExpertsResidentOption = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT",
        help="Instead of --memory: enough to keep this share of all experts resident, such as 50%.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Compute threads. Default: one per core.", show_default=False),
]
MaxContextOption = Annotated[
    int,
    typer.Option(
        min=0, help="Most tokens per sequence. 0: what the model was trained for, up to 4096."
    ),
]
PolicyOption = Annotated[
    str,
    typer.Option(help="Which expert to evict: next-use, farthest-layer, lru, lfru or least-stale."),
]
GatingOption = Annotated[
    str,
    typer.Option(
        help="off is exact; sensitivity and residency leave out experts within what "
        "`adapmoe calibrate` was allowed."
    ),
]
PrefetchOption = Annotated[
    int, typer.Option(min=0, max=3, help="Most layers to look ahead and read for.")
]
AllocationOption = Annotated[
    str,
    typer.Option(
        help="How layers share memory: global, uniform, or dp (needs `adapmoe calibrate`)."
    ),
]
EvictOption = Annotated[
    str,
    typer.Option(help="Give up experts by the tile or whole: expert."),
]
KernelsOption = Annotated[
    str, typer.Option(help="auto, scalar, avx2, avx512 or neon. All give the same tokens.")
]
BackendOption = Annotated[
    str,
    typer.Option(help="auto, cpu or cuda. auto: the GPU where it shares the CPU's memory."),
]
ExpertPathOption = Annotated[
    str,
    typer.Option(
        help="w4a8; w4a16 (on a GPU) or tensorrt (its engines), both with --no-exact; or auto: "
        "w4a8, with --no-exact the faster of the first two."
    ),
]
ExactOption = Annotated[
    bool, typer.Option("--exact/--no-exact", help="Permit only what gives the bits of the CPU.")
]
KvDtypeOption = Annotated[str, typer.Option(help="Type of the KV cache: f16 or f32.")]
ReaderOption = Annotated[
    str,
    typer.Option(
        help="io_uring, pread, or auto: io_uring where it works. All give the same tokens."
    ),
]
ReadDepthOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Reads at the same time. Default: what plan, bench or doctor found best on this disk, "
        "else 4.",
        show_default=False,
    ),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        help="Record which experts each layer needs, for `adapmoe replay`.",
        show_default=False,
    ),
]
TimelineOption = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False,
        help="Write who was busy when, for chrome://tracing or ui.perfetto.dev.",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else.")
]


class LLMOptions(NamedTuple):
    """What the options above deliver."""

    memory: str
    experts_resident: str | None
    threads: int | None
    max_context: int
    policy: str
    kernels: str
    kv_dtype: str
    prefill_chunk: int = 128
    timeline: bool = False
    reader: str = "auto"
    read_depth: int | None = None


class ExpertOptions(NamedTuple):
    """How experts are chosen, read ahead, kept and computed."""

    gating: str = "off"
    prefetch: int = 1
    allocation: str = "global"
    evict: str = "tile"
    backend: str = "auto"
    arithmetic: str = "auto"
    exact: bool = True


EXACT = ExpertOptions()


def open_llm(pack: Path, options: LLMOptions, experts: ExpertOptions = EXACT) -> LLM:
    """Open `pack`; the memory split goes to stderr.

    Raises:
        ValueError: an option with a wrong value.
        AdapmoeError: the pack cannot be opened.
    """
    share = options.experts_resident
    return LLM(
        pack,
        memory=options.memory,
        experts_resident=share,
        threads=options.threads,
        max_context=options.max_context,
        policy=options.policy,
        kernels=options.kernels,
        kv_dtype=options.kv_dtype,
        prefill_chunk=options.prefill_chunk,
        timeline=options.timeline,
        reader=options.reader,
        read_depth=options.read_depth,
        **experts._asdict(),
        verbose=True,
    )


MaxTokensOption = Annotated[
    int | None,
    typer.Option("--max-tokens", "-n", help="Most tokens to generate.", show_default=False),
]
TemperatureOption = Annotated[float, typer.Option(help="0 takes the most likely token.")]
TopKOption = Annotated[int, typer.Option(help="Sample among the K most likely tokens; 0: off.")]
TopPOption = Annotated[
    float, typer.Option(help="Sample among the likeliest tokens up to P in sum; 1: off.")
]
MinPOption = Annotated[
    float, typer.Option(help="Sample tokens at least P times as likely as the likeliest; 0: off.")
]
RepetitionPenaltyOption = Annotated[
    float, typer.Option(help="Above 1: less of what prompt and answer contain already; 1: off.")
]
PresencePenaltyOption = Annotated[
    float, typer.Option(help="Subtracted from logits of tokens that were generated; 0: off.")
]
FrequencyPenaltyOption = Annotated[
    float, typer.Option(help="Subtracted for every time a token was generated; 0: off.")
]
SeedOption = Annotated[
    int | None, typer.Option(help="Makes sampling repeatable.", show_default=False)
]
StopOption = Annotated[
    list[str] | None,
    typer.Option(help="End at this text; may be given several times.", show_default=False),
]
StopIdOption = Annotated[
    list[int] | None,
    typer.Option(
        min=0,
        metavar="N",
        help="End at the token with this id, as at an end of sequence; may be given several times.",
        show_default=False,
    ),
]
IgnoreEosOption = Annotated[
    bool, typer.Option("--ignore-eos", help="Go on after an end-of-sequence token.")
]
LogprobsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="With --json: log-probabilities of each token and of the N likeliest.",
        show_default=False,
    ),
]


def check_stop_ids(stop_ids: list[int] | None, vocab_size: int) -> tuple[int, ...]:
    """The ids that --stop-id gave. Raises ValueError for one that the model does not have."""
    for token_id in stop_ids or ():
        if token_id >= vocab_size:
            raise ValueError(f"--stop-id {token_id}: the model has the ids 0 to {vocab_size - 1}")
    return tuple(stop_ids or ())
