# SPDX-License-Identifier: Apache-2.0
"""What several verbs print alike."""

from typing import Any

from rich.console import Console
from rich.table import Table

from adapmoe.generation.request import GenerationResult
from adapmoe.generation.stats import split_as_dict
from adapmoe.llm import LLM
from adapmoe.machine.procfs import peak_rss_bytes
from adapmoe.units import format_bytes


def console(*, stderr: bool = False, file_width: int | None = None) -> Console:
    """Prints what users typed and files hold as it is: rich would obey [words in brackets].

    Args:
        stderr: not stdout.
        file_width: columns where it is no terminal; None: 80.
    """
    plain = Console(stderr=stderr, markup=False, emoji=False)
    if file_width is not None and not plain.is_terminal:
        plain.width = file_width
    return plain


def make_report(llm: LLM, result: GenerationResult) -> dict[str, Any]:
    """All there is to say about a generation, ready for JSON."""
    report = {
        "text": result.text,
        "token_ids": result.token_ids,
        "prompt_tokens": result.prompt_tokens,
        "generated_tokens": len(result.token_ids),
        "finish_reason": result.finish_reason,
        "stats": {
            **result.stats.as_dict(),
            "peak_rss_bytes": peak_rss_bytes(),
            "backend": llm.backend,
            "reader": llm.reader,
            "reading": {**llm.reading.as_dict(), **_registered(llm)},
            "energy_source": llm.power.source,
            "memory": split_as_dict(llm.memory_split),
        },
    }
    if result.logprobs is not None:
        report["logprobs"] = [token.as_dict() for token in result.logprobs]
    return report


def _registered(llm: LLM) -> dict[str, Any]:
    found = llm.registration
    return {
        "registered_file": found.file,
        "registered_tiles": found.frames,
        "registration_problem": found.problem,
    }


def _reading(stats: dict[str, Any]) -> str:
    found = stats["reading"]
    size = f" of {format_bytes(found['request_bytes'])}" if found["request_bytes"] else ""
    text = f"{stats['reader']}, {found['read_depth']} reads{size} at a time ({found['source']})"
    if found["register_buffers"]:
        text += f"; {found['registered_tiles']} tiles' memory registered"
    if found["registration_problem"]:
        text += f", {found['registration_problem']}"
    return text


def print_statistics(report: dict[str, Any]) -> None:
    """Print a table to stderr."""
    stats = report["stats"]
    prefill_speed, decode_speed = stats["prefill_tokens_per_s"], stats["decode_tokens_per_s"]
    reused = report["prompt_tokens"] - stats["prefill_tokens"]
    from_cache = (
        f", {reused} of them from the KV cache" if reused and stats["decode_tokens"] else ""
    )
    rows = {
        "prompt": f"{report['prompt_tokens']} tokens{from_cache}, {prefill_speed:.1f} per second",
        "generated": f"{report['generated_tokens']} tokens, {decode_speed:.1f} per second",
        "ended by": report["finish_reason"] or "interrupt",
        "experts used": f"{stats['experts_used']}, {stats['hit_rate']:.1%} found resident",
        "read from the pack": f"{format_bytes(stats['bytes_read'])}, by {_reading(stats)}",
        "waited for experts": f"{stats['stall_s']:.3f} s",
        "computed": f"{stats['compute_s']:.3f} s",
        "peak memory": format_bytes(stats["peak_rss_bytes"]),
    }
    if stats["joules_per_token"] is not None:
        watts = stats["decode_energy_j"] / stats["decode_s"]
        shown = f"{stats['joules_per_token']:.3g} J per token, {watts:.3g} W"
        rows["energy"] = f"{shown} ({stats['energy_source']})"
    if stats["throttled"]:
        rows["slowed down by"] = ", ".join(stats["throttled"])
    table = Table(title="statistics", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for label, value in rows.items():
        table.add_row(label, value)
    console(stderr=True).print(table)
