# SPDX-License-Identifier: Apache-2.0
"""Run as a program: exports a generated checkpoint, and prints its speed and peak memory.

The default checkpoint has 2.0 billion weights in bf16 (4 GB), with experts of Mixtral-8x7B's size.
The export runs in a process of its own, whose peak resident memory is reported.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.models.big_checkpoint import big_config, write_big_checkpoint

EXPORT = """
import json, sys, time
from pathlib import Path
from adapmoe_export import export_pack
source, out, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
began = time.perf_counter()
export_pack(source, out, **options)
seconds = time.perf_counter() - began
status = Path("/proc/self/status").read_text()
peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak * 1024}))
"""


def measure(config, directory, **options):
    """Export a checkpoint of `config` in `directory`; a dict of what it took."""
    began = time.perf_counter()
    checkpoint = write_big_checkpoint(directory / "checkpoint", config)
    generated_s = time.perf_counter() - began
    command = [sys.executable, "-c", EXPORT, str(checkpoint.path), str(directory / "out.adapmoe")]
    done = subprocess.run(
        [*command, json.dumps(options)], stdout=subprocess.PIPE, text=True, check=True
    )
    report = json.loads(done.stdout)
    return {
        "weights": checkpoint.weights,
        "checkpoint_bytes": 2 * checkpoint.weights,
        "largest_tensor_bytes": checkpoint.largest_tensor_bytes,
        "generated_s": generated_s,
        "export_s": report["seconds"],
        "weights_per_s": checkpoint.weights / report["seconds"],
        "peak_rss_bytes": report["peak_rss_bytes"],
        "peak_rss_limit_bytes": 3 * checkpoint.largest_tensor_bytes + 400_000_000,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=14336)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--experts", type=int, default=11)
    parser.add_argument("--dtype", default="int4", help="of the experts")
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--directory", type=Path, help="where; needs 1.3 times the checkpoint")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config = big_config(
        arguments.hidden, arguments.intermediate, arguments.layers, arguments.experts
    )
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        report = measure(
            config,
            Path(directory),
            experts=arguments.dtype,
            group_size=arguments.group_size,
            threads=arguments.threads,
        )
    if arguments.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:22} {value:>18,.1f}")


if __name__ == "__main__":
    main()
