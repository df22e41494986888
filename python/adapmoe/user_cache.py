# SPDX-License-Identifier: Apache-2.0
"""Small JSON files in the user's cache directory.

They are advice: who reads one checks it, and whatever is wrong with it is never an error.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/adapmoe`, or `~/.cache/adapmoe`.

    Raises:
        RuntimeError: there is no home directory.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification says that relative paths are to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "adapmoe"


def write_cached(path: Path, content: dict[str, Any]) -> None:
    """Replace `path` at once, making its folder if need be. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name[:16])
    partial = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            json.dump(content, file, allow_nan=False)
        partial.replace(path)  # no fsync: after a power cut an old or empty one will do
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
