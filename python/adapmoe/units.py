# SPDX-License-Identifier: Apache-2.0
"""Byte counts as people write them."""

import re
from fractions import Fraction

from adapmoe import checks

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
# As many digits as anybody writes; Python refuses to read thousands, with a message of its own.
_SIZE = re.compile(r"\s*(\d{1,40}(?:\.\d{1,40})?)\s*([A-Za-z]*)\s*", re.ASCII)
_SHARE = re.compile(r"\s*(\d{1,40}(?:\.\d{1,40})?)\s*(%?)\s*", re.ASCII)
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*", re.ASCII)


def parse_memory(value: object, name: str = "memory") -> int:
    """Turn a `memory` setting into bytes.

    Accepts a number of bytes, "12GiB", "512MiB" (powers of 1024), "2.5GB" (powers of 1000), or
    "auto". `name`: what to call it in messages.

    Returns:
        Bytes, at least 1; 0 for "auto", which lets the session choose.

    Raises:
        TypeError: neither an integer nor a string.
        ValueError: not a size, not positive, or more than 63 bits can count.
    """
    if isinstance(value, str):
        if value.strip().lower() == "auto":
            return 0
        size = _parse_size(name, value)
    else:
        expected = "a whole number of bytes, a size such as '12GiB', or 'auto'"
        size = checks.integer(name, value, expected=expected)
    if size < 1:
        raise ValueError(f"{name} must be positive, not {checks.shown(value)}")
    if size > checks.INT64_MAX:
        raise ValueError(f"{name} must be below 2**63 bytes (8 EiB), not {checks.shown(value)}")
    return size


def _parse_size(name: str, text: str) -> int:
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(
            f"{name}: {text!r} is not a size: write for example '12GiB', '512MiB', '2.5GB', "
            "a plain number of bytes, or 'auto'"
        )
    return int(Fraction(match[1]) * unit)


def parse_percent(text: str) -> float:
    """Turn "50%" into 0.5.

    Raises:
        TypeError: not a string.
        ValueError: no percent sign, or not in (0 %, 100 %].
    """
    match = _PERCENT.fullmatch(checks.text("a percentage", text))
    if match is None or not 0 < float(match[1]) <= 100:
        raise ValueError(f"{text!r} is not a percentage above 0% and up to 100%, such as '50%'")
    return float(match[1]) / 100


def parse_share(value: object, name: str = "share") -> float:
    """Turn "50%", "0.5" or 0.5 into 0.5.

    Raises:
        TypeError: neither a number nor a string.
        ValueError: not from 0 to 1, or a string that is no share above 0.
    """
    if not isinstance(value, str):
        return checks.within(name, value, 0, 1)
    match = _SHARE.fullmatch(value)
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 < share <= 1:
        raise ValueError(f"{name}: {value!r} is not a share: write for example '50%' or 0.5")
    return share


def format_bytes(count: int) -> str:
    """Write a byte count in powers of 1024: 1610612736 becomes "1.50 GiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{count} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} TiB"
