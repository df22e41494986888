# SPDX-License-Identifier: Apache-2.0
"""Run as a program: how fast the GPU kernels are on this machine.

Usage:
  python -m benchmarks.gpu_speed gemv          one row: share of the memory's bandwidth
  python -m benchmarks.gpu_speed rows          1 to 16 rows: weights read again or once
  python -m benchmarks.gpu_speed decode PACK   tokens per second, all experts resident

Prints a table, and with --json FILE writes the rows with the command and the device. Needs what
`make cuda-tools` built. `gemv` ends with status 1 where a discrete GPU does less than half of its
bandwidth with W4A8.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LEAST_SHARE = 0.5  # of the bandwidth of a discrete GPU's memory, for W4A8 GEMV
SHAPES = ((14336, 4096), (4096, 14336))  # outputs and inputs: gate/up_proj and down_proj
TOTAL_BYTES = 1 << 30  # more than any cache
PROMPT = [1, 45, 67, 300, 12, 99, 4, 2024]


class ToolError(Exception):
    """A tool could not run; the text is what it said."""


def report(build: str, name: str, *arguments: object) -> dict[str, str]:
    """{word: rest of its line} of a program of runtime/tools.

    Raises:
        ToolError: it is not built, or failed.
    """
    path = ROOT / "build" / build / "runtime/tools" / f"adapmoe-{name}"
    if not path.exists():
        raise ToolError(f"no {path.relative_to(ROOT)}: run `make cuda-tools`")
    command = [str(path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolError(done.stderr.strip())
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def bandwidths(build: str, total_bytes: int = TOTAL_BYTES) -> dict[str, float]:
    """Bytes per second of device memory and of mapped host memory."""
    kinds = ("device", "mapped")
    found = {kind: report(build, "gpu-bench", "bandwidth", kind, total_bytes) for kind in kinds}
    return {kind: float(found[kind]["bytes_per_second"]) for kind in kinds}


def is_integrated(build: str) -> bool:
    """Whether the GPU shares the CPU's memory."""
    return report(build, "gpu-bench", "bandwidth", "device", 1 << 20)["integrated"] == "1"


def gemv(
    build: str, shapes: tuple[tuple[int, int], ...] = SHAPES, total_bytes: int = TOTAL_BYTES
) -> list[dict[str, Any]]:
    """One activation row. `share`: of the bandwidth of the memory that the weights are in."""
    speeds = bandwidths(build, total_bytes)
    rows = []
    for memory, speed in speeds.items():
        for outputs, inputs in shapes:
            for dtype, path in (("int4", "w4a8"), ("int4", "w4a16"), ("int8", "w4a8")):
                row: dict[str, Any] = {"memory": memory, "outputs": outputs, "inputs": inputs}
                row |= {"dtype": dtype, "path": path, "bandwidth_gb_s": speed / 1e9}
                arguments = (dtype, outputs, inputs, 128, 1, path, "by-rows", memory, total_bytes)
                found = report(build, "gpu-bench", "product", *arguments)
                rate = int(found["weight_bytes"]) / float(found["seconds"])
                rows.append(row | {"gb_s": rate / 1e9, "share": rate / speed})
    return rows


def least_share(rows: list[dict[str, Any]]) -> float:
    """The worst of W4A8 on int4 weights in device memory."""
    wanted = {"memory": "device", "dtype": "int4", "path": "w4a8"}
    return float(min(row["share"] for row in rows if wanted.items() <= row.items()))


def again_or_once(
    build: str,
    shape: tuple[int, int] = SHAPES[0],
    counts: tuple[int, ...] = tuple(range(1, 17)),
    total_bytes: int = TOTAL_BYTES // 4,
) -> list[dict[str, Any]]:
    """Microseconds of one int4 product by how its weights are read, for several rows."""
    table = []
    for memory in ("device", "mapped"):
        for count in counts:
            row: dict[str, Any] = {"memory": memory, "rows": count}
            digests = set()
            for reads in ("again", "once"):
                arguments = ("int4", *shape, 128, count, "w4a8", reads, memory, total_bytes)
                found = report(build, "gpu-bench", "product", *arguments)
                row[f"{reads}_us"] = float(found["seconds"]) * 1e6
                digests.add(found["crc32c"])
            if len(digests) != 1:
                raise ToolError(f"{memory}, {count} rows: how weights are read changes the result")
            table.append(row)
    return table


def decode(build: str, pack: Path, tokens: int = 64) -> list[dict[str, Any]]:
    """Greedy decoding by the GPU, each path of the experts, which are all read beforehand.

    `replayed`: steps that were repeated as one CUDA graph.
    """
    rows = []
    for path in ("w4a8", "w4a16"):
        options = ("--backend", "cuda", "--experts", path, "--exact", "no", "--warm", "yes")
        found = report(build, "tokens", pack, *PROMPT, "-n", tokens, *options)
        step = float(found["decode_median_s"])
        row: dict[str, Any] = {"path": path, "backend": found["backend"], "tokens": tokens}
        row["replayed"] = sum(map(int, found["replays"].split()))
        rows.append(row | {"step_ms": step * 1e3, "tokens_per_s": 1 / step})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows under their names."""
    lines = [list(rows[0]), *(list(map(_text, row.values())) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["gemv", "rows", "decode"])
    parser.add_argument("pack", type=Path, nargs="?", help="for decode")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--build", default="cuda", help="folder of build/ with the tools")
    arguments = parser.parse_args()
    build = arguments.build
    if (arguments.what == "decode") != (arguments.pack is not None):
        parser.error("decode, and only decode, needs a pack")
    try:
        if arguments.what == "gemv":
            rows = gemv(build)
        elif arguments.what == "rows":
            rows = again_or_once(build)
        else:
            rows = decode(build, arguments.pack)
        integrated = is_integrated(build)
    except ToolError as error:
        print(f"gpu_speed: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    if arguments.json is not None:
        facts = {"command": sys.argv[1:], "integrated": integrated, "rows": rows}
        arguments.json.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    if arguments.what != "gemv":
        return 0
    share = least_share(rows)
    print(f"W4A8 on int4 reads at {share:.0%} of the device memory's bandwidth")
    return 0 if integrated or share >= LEAST_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
