# SPDX-License-Identifier: Apache-2.0
"""What the JSON files beside a pack have in common: how they are read, checked and written."""

import json
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from adapmoe.errors import AdapmoeError
from adapmoe.machine.files import replace_file
from adapmoe.pack.manifest import manifest_sha256

Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Sidecar(Struct, kw_only=True):
    """What each begins with: what it is, and the pack it belongs to."""

    format: str = ""
    format_version: int = 0
    manifest_sha256: str = ""


Kind = TypeVar("Kind", bound=Sidecar)


def read_sidecar(
    path: Path,
    pack: Path,
    kind: type[Kind],
    version: tuple[str, int],
    *,
    subject: str,
    remedy: str,
    error: type[AdapmoeError],
) -> Kind:
    """Read a file beside `pack`.

    Args:
        path: the file.
        pack: its directory.
        kind: what the file holds.
        version: its format and format version.
        subject: comes before "of another pack" in a message.
        remedy: what to do about a file that cannot be used.
        error: what is raised.

    Raises:
        AdapmoeError: `error`: the file cannot be read, is of another format, version or pack, or
            does not hold a `kind`.
    """
    try:
        data = path.read_bytes()
        header = msgspec.json.decode(data, type=Sidecar)
    except msgspec.ValidationError:
        header = Sidecar()
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{path}: cannot be read as JSON: {problem}; {remedy}") from problem
    if (header.format, header.format_version) != version:
        raise error(f"{path}: is not {version[0]} version {version[1]}; {remedy}")
    expected = manifest_sha256(pack)
    if header.manifest_sha256 != expected:
        raise error(
            f"{path}: {subject} of another pack, with manifest.json of SHA-256 "
            f"{header.manifest_sha256}, here it is {expected}; {remedy}"
        )
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: {problem}; {remedy}") from problem


def sidecar_bytes(content: Sidecar) -> bytes:
    """The text of such a file. Raises ValueError for NaN and infinity, which JSON does not have."""
    plain = msgspec.to_builtins(content, str_keys=True)
    return (json.dumps(plain, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_sidecar(path: Path, content: Sidecar) -> None:
    """Replace the file. Raises OSError."""
    replace_file(path, sidecar_bytes(content))
