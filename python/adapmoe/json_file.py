# SPDX-License-Identifier: Apache-2.0
"""The small JSON files beside the weights."""

import json
from pathlib import Path
from typing import Any

from adapmoe.errors import PackError


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """Read a JSON object; {} for a missing file that is not `required`.

    Raises:
        PackError: it is missing, cannot be read, or is not an object.
    """
    if not required and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PackError(
            f"{path}: missing; the pack has no tokenizer, use token ids instead"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise PackError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise PackError(f"{path}: expected a JSON object")
    return value
