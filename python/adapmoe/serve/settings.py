# SPDX-License-Identifier: Apache-2.0
"""Every setting of the server, once: name, type, default, unit, help and group."""

import functools
import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from adapmoe import checks
from adapmoe.settings import check_fields, option
from adapmoe.units import parse_memory

SERVER, SECURITY, LIMITS = "Server", "Security", "Limits"  # groups, as help shows them

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")


def _whole(low: int, high: int) -> Callable[[str, Any], int]:
    return functools.partial(checks.integer, low=low, high=high)


def _seconds(low: float, high: float = 86_400) -> Callable[[str, Any], float]:
    return functools.partial(checks.within, low=low, high=high)


def _words(name: str, value: Any) -> str:
    """Text that is not empty and fits on one line of a terminal or of a file."""
    found = checks.text(name, value)
    if not found.strip() or not found.isprintable():
        raise checks.out_of_range(name, "some printable text", found)
    return found


def _size(name: str, value: Any) -> int:
    """A byte count; `auto` is for memory alone."""
    try:
        found = parse_memory(value, name)
    except ValueError:
        found = 0
    if not found:
        raise checks.out_of_range(name, "a size such as '8MiB', or a number of bytes", value)
    return found


def _size_or_zero(name: str, value: Any) -> int:
    return 0 if value in (0, "0") and value is not False else _size(name, value)


def _hosts(name: str, value: Any) -> tuple[str, ...]:
    several = checks.items(name, value, "a list of host names")
    return tuple(_host(f"{name}[{at}]", one) for at, one in enumerate(several))


def _host(name: str, value: Any) -> str:
    """What a Host header may say, without a port, in small letters."""
    found = checks.text(name, value).lower().removesuffix(".")
    if not _NAME.fullmatch(found):
        try:
            return str(ipaddress.ip_address(found.strip("[]")))
        except ValueError:
            expected = "a host name or an IP address, without a port"
            raise checks.out_of_range(name, expected, value) from None
    return found


def _origins(name: str, value: Any) -> tuple[str, ...]:
    several = checks.items(name, value, "a list of origins")
    return tuple(_origin(f"{name}[{at}]", one) for at, one in enumerate(several))


def _origin(name: str, value: Any) -> str:
    """What an Origin header may say, in small letters."""
    found = checks.text(name, value).lower()
    expected = "an origin such as https://app.example:3000, without a path"
    try:
        parts = urlsplit(found)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or found != f"{parts.scheme}://{parts.netloc}" or "@" in found or "*" in found:
        raise checks.out_of_range(name, expected, value)
    return found


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How a pack is served; every field is an option of `adapmoe serve`.

    Raises:
        TypeError, ValueError: a field of a wrong type, or out of its range; the message names it.
    """

    host: str = option(
        "127.0.0.1",
        "Listen here; default: 127.0.0.1. Beyond this machine only with keys.",
        check=_words,
        group=SERVER,
        metavar="HOST",
    )
    port: int = option(
        8000, "Port to listen at; 0: any that is free.", check=_whole(0, 65535), group=SERVER
    )
    model_name: str | None = option(
        None,
        "What clients call the model; default: the name of the pack.",
        check=_words,
        group=SERVER,
        metavar="NAME",
    )
    drain: float = option(
        30.0,
        "Seconds that running answers still have at the end.",
        check=_seconds(0),
        group=SERVER,
    )
    keys: str | None = option(
        None,
        "A file with a line name:secret per API key; default: no keys.",
        check=_words,
        group=SECURITY,
        metavar="FILE",
    )
    tls_key: str | None = option(
        None,
        "Private key for HTTPS, PEM; with --tls-cert.",
        check=_words,
        group=SECURITY,
        metavar="FILE",
    )
    tls_cert: str | None = option(
        None,
        "Certificates for HTTPS, PEM; with --tls-key.",
        check=_words,
        group=SECURITY,
        metavar="FILE",
    )
    allowed_hosts: Sequence[str] = option(
        (),
        "Further names that clients may call this machine by.",
        check=_hosts,
        group=SECURITY,
        metavar="HOST",
    )
    cors: Sequence[str] = option(
        (),
        "Origins whose web pages may use the server; default: none.",
        check=_origins,
        group=SECURITY,
        metavar="ORIGIN",
    )
    max_queue: int = option(
        64,
        "Most answers that wait (a request may want several); more: 429.",
        check=_whole(0, 1 << 16),
        group=LIMITS,
    )
    timeout: float = option(
        600.0, "Most seconds per request, waiting included.", check=_seconds(0.1), group=LIMITS
    )
    max_body: int | str = option(
        "8MiB",
        "Most bytes of a request's body; default: 8MiB.",
        check=_size,
        group=LIMITS,
        metavar="SIZE",
    )
    max_prompt: int = option(
        0,
        "Most tokens of a prompt; 0: as many as fit the context.",
        check=_whole(0, checks.INT64_MAX),
        group=LIMITS,
    )
    max_connections: int = option(
        256, "Most connections at a time.", check=_whole(1, 1 << 16), group=LIMITS
    )
    header_timeout: float = option(
        10.0,
        "Seconds for the head of a request, or a stall of its body.",
        check=_seconds(0.1),
        group=LIMITS,
    )
    token_gap: float = option(
        0.5,
        "Most seconds that a prompt should hold up other answers.",
        check=_seconds(0.001),
        group=LIMITS,
    )

    keep_free: int | str = option(
        "512MiB",
        "Memory that others should find free: less, and experts give way; 0: never.",
        check=_size_or_zero,
        group=LIMITS,
        metavar="SIZE",
    )

    def __post_init__(self) -> None:
        """Check every field, and store it as a plain Python value."""
        check_fields(self)

    @property
    def max_body_bytes(self) -> int:
        """`max_body` as a number."""
        return _size("max_body", self.max_body)

    @property
    def keep_free_bytes(self) -> int:
        """`keep_free` as a number."""
        return _size_or_zero("keep_free", self.keep_free)
