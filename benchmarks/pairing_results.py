# SPDX-License-Identifier: Apache-2.0
"""The JSON file in which the rows of the pairing accumulate, and what stands beside each figure."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peer_build import CMAKE, PACKAGE, VERSION
from benchmarks.sides import PYTHON_MARGIN, ROOT


def provenance() -> dict[str, Any]:
    """Where and of what the figures of a row are."""
    git = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
    )
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "command": sys.argv[1:],
        "commit": git.stdout.strip(),
        "cpu": cpu[0].split(": ", 1)[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],  # of the last minute, our own included
    }


def open_results(path: Path, pack: Path, gguf: Path) -> dict[str, Any]:
    """What was measured before, or an empty file's contents."""
    model = {
        "manifest_sha256": hashlib.sha256((pack / "manifest.json").read_bytes()).hexdigest(),
        "gguf_bytes": gguf.stat().st_size,
        "peer": f"{PACKAGE} {VERSION}",
        "peer_cmake": CMAKE,
        "python_margin_bytes": PYTHON_MARGIN,
    }
    if not path.exists():
        return model | {"rows": {}}
    results = json.loads(path.read_text())
    if any(results.get(name) != value for name, value in model.items()):
        raise SystemExit(f"{path}: of another model or peer; move it away or give another --out")
    return results
