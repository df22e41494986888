# SPDX-License-Identifier: Apache-2.0
"""JSON as responses hold it."""

import json
from typing import Any


def json_bytes(value: Any) -> bytes:
    """`value` as compact JSON in UTF-8.

    Half a surrogate pair, which UTF-8 cannot hold, is escaped: a request may have held it so.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")
