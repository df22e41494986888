# SPDX-License-Identifier: Apache-2.0
"""Byte counts as people write them."""

import re
from fractions import Fraction

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*", re.ASCII)


def parse_memory(value: int | str) -> int:
    """Turn a `memory` setting into bytes.

    Accepts a number of bytes, "12GiB", "512MiB" (powers of 1024), "2.5GB" (powers of 1000), or
    "auto".

    Returns:
        Bytes, at least 1; 0 for "auto", which lets the session choose.

    Raises:
        ValueError: not a size, or not positive.
    """
    if isinstance(value, str):
        if value.strip().lower() == "auto":
            return 0
        size = _parse_size(value)
    elif isinstance(value, bool):
        raise ValueError(f"memory must be bytes, a size such as '12GiB', or 'auto', not {value!r}")
    else:
        size = int(value)
    if size < 1:
        raise ValueError(f"memory must be positive, not {value!r}")
    return size


def _parse_size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(
            f"{text!r} is not a size: write for example '12GiB', '512MiB', '2.5GB', "
            "a plain number of bytes, or 'auto'"
        )
    return int(Fraction(match[1]) * unit)


def parse_percent(text: str) -> float:
    """Turn "50%" into 0.5.

    Raises:
        ValueError: no percent sign, or not in (0 %, 100 %].
    """
    match = _PERCENT.fullmatch(text)
    if match is None or not 0 < float(match[1]) <= 100:
        raise ValueError(f"{text!r} is not a percentage above 0% and up to 100%, such as '50%'")
    return float(match[1]) / 100


def format_bytes(count: int) -> str:
    """Write a byte count in powers of 1024: 1610612736 becomes "1.50 GiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{count} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"
